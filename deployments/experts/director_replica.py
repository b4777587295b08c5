"""The Serve deployment of a model's director: one replica, which keeps nothing that the
hosts could not tell its successor."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.experts.director import DirectorThread
from deployments.experts.host_feed import follow_hosts
from deployments.experts.tier_plan import check_tier
from deployments.models.resolve import resolve_model
from deployments.replica_logging import ServeLog
from deployments.settings import ModelSection
from experts.checkpoint.reader import CheckpointReader
from experts.director.status import status_of
from experts.director.types import DirectorSettings
from infra.errors import EngineError

log = logging.getLogger("ray.serve")


class ExpertDirectorReplica:
    """Made a Serve deployment in `deployments.experts.deployment`."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self, section: dict[str, Any], link: dict[str, str], hosts: DeploymentHandle[Any]
    ) -> None:
        ServeLog()
        self._section = ModelSection.model_validate(section)
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._thread = await asyncio.to_thread(self._made, link)
        self._thread.start()
        follow_hosts(hosts, self._thread.set_hosts)

    def _made(self, link: dict[str, str]) -> DirectorThread:
        path = resolve_model(self._section.model, Path(link["state_dir"])).path
        experts = self._section.experts
        settings = DirectorSettings(experts.rebalance, experts.num_hosts)
        checkpoint = CheckpointReader.open(check_tier(self._section, path).model_path)
        shape, model = checkpoint.config.shape, checkpoint.digest
        return DirectorThread(shape, model, settings, link["token"])

    async def check_health(self) -> None:
        """Raises EngineError where the thread has ended; Serve then replaces us."""
        if self._thread.failure is not None:
            raise EngineError(f"the director of expert hosts failed: {self._thread.failure}")

    async def status(self) -> dict[str, Any]:
        """`experts.director.status.status_of`, under `experts`."""
        # A view waits while a plan is made.
        view = await asyncio.to_thread(self._thread.view)
        return {
            "model": self._section.name,
            "replica_id": self._replica_id,
            "pid": os.getpid(),
            "experts": status_of(view, time.monotonic()),
        }

    async def __del__(self) -> None:
        await asyncio.to_thread(self._thread.close)
