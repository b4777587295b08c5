"""The Serve deployment of expert hosts: one replica is one host.

Engines and the director reach it by its links, not by Serve. Its loop has a thread of its
own, which computes; the replica's event loop only answers Serve.
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
from deployments.experts.host_feed import CARD_KEY
from deployments.experts.tier_plan import plan_tier
from deployments.experts.waiting import WAITING_ENVIRONMENT
from deployments.models.resolve import resolve_model
from deployments.replica_logging import ServeLog
from deployments.settings import ModelSection
from experts.directory import HostCard
from infra.errors import EngineError

if TYPE_CHECKING:
    from deployments.experts.host.host import ExpertHost

log = logging.getLogger("ray.serve")

_LOOK_S = 0.1
# A turn that waits takes a second, and one that computes little more.
_HANGS_S = 20.0
# How long it stays after engines that may have drained for as long as they can.
_AFTER_ENGINES_S = 5.0


class ExpertHostReplica:
    """Made a Serve deployment in `deployments.experts.deployment`."""

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
        self._thread = threading.Thread(target=self._host.run, name="expert-host", daemon=True)
        self._thread.start()
        self._startup_s = time.monotonic() - started
        log.info("expert host %s of %s ready", self._host.host, self._section.name)

    def _open(self, link: dict[str, str]) -> "ExpertHost":
        os.environ.update(WAITING_ENVIRONMENT)
        # torch takes seconds to import.
        from deployments.experts.host.host import ExpertHost  # noqa: PLC0415
        from deployments.experts.host.settings import HostSettings  # noqa: PLC0415

        path = resolve_model(self._section.model, Path(link["state_dir"])).path
        plan = plan_tier(self._section, path)
        settings = HostSettings(
            num_slots=plan.num_slots,
            dtype=plan.dtype,
            unix_folder=self._scratch.path,
            precision=self._section.experts.precision,
            device=self._section.experts.host_device,
            tcp_host=ray.util.get_node_ip_address(),
            secret=link["token"],
            num_threads=len(self._cores),
            cores=self._cores,
        )
        return ExpertHost.open(plan.model_path, settings)

    async def record_replica_metadata(self) -> dict[str, Any]:
        """By which engines and the director find it; Serve hands it to their routers."""
        return {CARD_KEY: HostCard(self._host.host, self._host.addresses).as_dict()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `autoscaling.wanted_hosts` goes by; Serve itself sees no requests here."""
        report = self._host.report()
        return {"busy_share": report.busy_share, "queue_s": report.queue_s}

    async def check_health(self) -> None:
        """Raises EngineError where the loop has ended, or hangs; Serve then replaces us."""
        if self._host.failure is not None or not self._thread.is_alive():
            raise EngineError(f"the expert host has failed: {self._host.failure}")
        if self._host.turn_s > _HANGS_S:
            raise EngineError(f"the expert host has not moved for {self._host.turn_s:.0f} s")

    async def status(self) -> dict[str, Any]:
        """What it is and does; what it holds the director says."""
        report = self._host.report()
        return {
            "model": self._section.name,
            "replica_id": self._replica_id,
            "pid": os.getpid(),
            "host": self._host.host,
            "num_slots": report.table.held.shape[1],
            "num_engines": report.num_engines,
            "num_requests": report.num_requests,
            "is_leaving": report.is_leaving,
            "cores": self._cores,
            "startup_s": {"total": round(self._startup_s, 2)},
        }

    async def __del__(self) -> None:
        """Serve has taken it off its list: give the copies away first, if anybody needs
        them."""
        self._scratch.free_cores()
        self._host.leave()
        await asyncio.to_thread(self._give_away)
        self._host.close()
        await asyncio.to_thread(self._thread.join)
        self._scratch.remove()

    def _give_away(self) -> None:
        end_s = time.monotonic() + self._section.drain_timeout_s + _AFTER_ENGINES_S
        while time.monotonic() < end_s and self._is_needed():
            time.sleep(_LOOK_S)

    def _is_needed(self) -> bool:
        is_followed = self._host.report().num_engines > 0
        return self._thread.is_alive() and is_followed and not self._host.is_empty
