"""What Serve replicas that are hosts do alike: expert hosts and draft replicas.

Those who ask them reach them by their links, not by Serve. A host's loop has a thread of its
own, which computes; the replica's event loop only answers Serve.
"""

import asyncio
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ray import serve

from deployments.engine.core_claim import claim_ranks_cores
from deployments.engine.scratch import Scratch
from deployments.experts.host_feed import CARD_KEY
from deployments.experts.waiting import WAITING_ENVIRONMENT
from deployments.replica_logging import ServeLog
from deployments.settings import ModelSection
from experts.directory import HostCard
from infra.errors import EngineError

if TYPE_CHECKING:  # torch takes seconds to import
    from deployments.link_hosts.host import LinkHost

log = logging.getLogger("ray.serve")

# A turn that waits takes a second, and one that computes little more.
_HANGS_S = 20.0


_Host = TypeVar("_Host", bound="LinkHost")


class HostReplica(Generic[_Host]):
    """Those of each kind say what they open, what they tell, and how they end."""

    kind = "host"
    """In logs and errors."""

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self, section: dict[str, Any], link: dict[str, str], num_cpu_ranks: int
    ) -> None:
        serve_log = ServeLog()
        started = time.monotonic()
        self._section = ModelSection.model_validate(section)
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._scratch = Scratch.claim()
        [self._cores] = claim_ranks_cores(self._scratch, self._section, num_cpu_ranks)
        os.environ.update(WAITING_ENVIRONMENT)
        try:
            host = await asyncio.to_thread(self._open, link)
        finally:
            serve_log.restore()
        self._thread = threading.Thread(target=host.run, name=self.kind, daemon=True)
        self._thread.start()
        self._host: _Host = host
        self._startup_s = time.monotonic() - started
        log.info("%s %s of %s ready", self.kind, host.host, self._section.name)

    def _open(self, link: dict[str, str]) -> _Host:
        """The host that this replica is; in a thread, as it takes long."""
        raise NotImplementedError

    async def record_replica_metadata(self) -> dict[str, Any]:
        """By which others find it; Serve hands it to their routers."""
        return {CARD_KEY: HostCard(self._host.host, self._host.addresses).as_dict()}

    async def check_health(self) -> None:
        """Raises EngineError where the loop has ended, or hangs; Serve then replaces us."""
        if self._host.failure is not None or not self._thread.is_alive():
            raise EngineError(f"the {self.kind} has failed: {self._host.failure}")
        if self._host.turn_s > _HANGS_S:
            raise EngineError(f"the {self.kind} has not moved for {self._host.turn_s:.0f} s")

    def _status(self) -> dict[str, Any]:
        """What replicas of all kinds tell."""
        return {
            "model": self._section.name,
            "replica_id": self._replica_id,
            "pid": os.getpid(),
            "host": self._host.host,
            "cores": self._cores,
            "startup_s": {"total": round(self._startup_s, 2)},
        }

    async def _end(self) -> None:
        """The host's last turn, and its traces."""
        self._host.close()
        await asyncio.to_thread(self._thread.join)
        self._scratch.remove()
