"""The Serve deployment of draft replicas: each runs a small model for all engines that ask.

Engines reach it by its links, not by Serve. Its loop has a thread of its own, which
computes; the replica's event loop only answers Serve.
"""

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from deployments.engine.core_claim import claim_ranks_cores
from deployments.engine.scratch import Scratch
from deployments.experts.autoscaling import BUSY
from deployments.experts.host_feed import CARD_KEY
from deployments.experts.waiting import WAITING_ENVIRONMENT
from deployments.models.resolve import resolve_model
from deployments.replica_logging import ServeLog
from deployments.settings import ModelSection
from experts.directory import HostCard
from infra.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from deployments.drafts.host.host import DraftHost

log = logging.getLogger("ray.serve")

# A turn that waits takes a second, and one that computes little more.
_HANGS_S = 20.0
# Until engines have seen that it is off their list.
_LEAVE_S = 1.5


class DraftReplica:
    """Made a Serve deployment in `deployments.drafts.deployment`."""

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
        try:
            self._host = await asyncio.to_thread(self._open, link)
        finally:
            serve_log.restore()
        self._thread = threading.Thread(target=self._host.run, name="draft-host", daemon=True)
        self._thread.start()
        self._startup_s = time.monotonic() - started
        self._watched = time.monotonic(), 0.0
        log.info("draft replica %s for %s ready", self._host.host, self._section.name)

    def _open(self, link: dict[str, str]) -> "DraftHost":
        os.environ.update(WAITING_ENVIRONMENT)
        # torch takes seconds to import.
        from deployments.drafts.host.host import DraftHost  # noqa: PLC0415
        from deployments.drafts.host.settings import DraftHostSettings  # noqa: PLC0415

        section, state_dir = self._section.speculation.draft, Path(link["state_dir"])
        assert section.model is not None
        draft = resolve_model(section.model, state_dir)
        if not draft.is_local:
            raise ConfigError(
                f"speculation.draft.model: {section.model!r} is a hub id; download the model "
                "first and name its directory"
            )
        engine = resolve_model(self._section.model, state_dir)
        settings = DraftHostSettings(
            unix_folder=self._scratch.path,
            section=section,
            tcp_host=ray.util.get_node_ip_address(),
            secret=link["token"],
            num_threads=len(self._cores),
            cores=self._cores,
        )
        return DraftHost.open(Path(engine.path), Path(draft.path), settings)

    async def record_replica_metadata(self) -> dict[str, Any]:
        """By which engines find it; Serve hands it to their routers."""
        return {CARD_KEY: HostCard(self._host.host, self._host.addresses).as_dict()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `BusySharePolicy` goes by; Serve itself sees no requests here."""
        return {BUSY: self._busy_share()}

    def _busy_share(self) -> float:
        """Since the last call."""
        before, now = self._watched, (time.monotonic(), self._host.loop.busy_s)
        self._watched = now
        return min((now[1] - before[1]) / max(now[0] - before[0], 1e-3), 1.0)

    async def check_health(self) -> None:
        """Raises EngineError where the loop has ended, or hangs; Serve then replaces us."""
        if self._host.failure is not None or not self._thread.is_alive():
            raise EngineError(f"the draft replica has failed: {self._host.failure}")
        if self._host.turn_s > _HANGS_S:
            raise EngineError(f"the draft replica has not moved for {self._host.turn_s:.0f} s")

    async def status(self) -> dict[str, Any]:
        """What it is and does."""
        loop = self._host.loop
        return {
            "model": self._section.name,
            "replica_id": self._replica_id,
            "pid": os.getpid(),
            "host": self._host.host,
            "num_engines": loop.num_engines,
            "num_answers": loop.num_answers,
            "busy_s": round(loop.busy_s, 3),
            "cores": self._cores,
            "startup_s": {"total": round(self._startup_s, 2)},
        }

    async def __del__(self) -> None:
        """Serve has taken it off its list: engines leave it by themselves, within a second."""
        self._scratch.free_cores()
        await asyncio.sleep(_LEAVE_S)
        self._host.close()
        await asyncio.to_thread(self._thread.join)
        self._scratch.remove()
