"""The Serve deployment of expert hosts: one replica is one host.

Engines and the director reach it by its links: see `deployments.link_hosts.replica`.
"""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from deployments.experts.tier_plan import plan_tier
from deployments.link_hosts.replica import HostReplica
from deployments.models.resolve import resolve_model

if TYPE_CHECKING:
    from deployments.experts.host.host import ExpertHost

_LOOK_S = 0.1
# How long it stays after engines that may have drained for as long as they can.
_AFTER_ENGINES_S = 5.0


class ExpertHostReplica(HostReplica["ExpertHost"]):
    """Made a Serve deployment in `deployments.experts.deployment`."""

    kind = "expert host"

    def _open(self, link: dict[str, str]) -> "ExpertHost":
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

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `autoscaling.wanted_hosts` goes by; Serve itself sees no requests here."""
        report = self._host.report()
        return {"busy_share": report.busy_share, "queue_s": report.queue_s}

    async def status(self) -> dict[str, Any]:
        """What it is and does; what it holds the director says."""
        report = self._host.report()
        return self._status() | {
            "num_slots": report.table.held.shape[1],
            "num_engines": report.num_engines,
            "num_requests": report.num_requests,
            "is_leaving": report.is_leaving,
        }

    async def __del__(self) -> None:
        """Serve has taken it off its list: give the copies away first, if anybody needs
        them."""
        self._scratch.free_cores()
        self._host.leave()
        await asyncio.to_thread(self._give_away)
        await self._end()

    def _give_away(self) -> None:
        end_s = time.monotonic() + self._section.drain_timeout_s + _AFTER_ENGINES_S
        while time.monotonic() < end_s and self._is_needed():
            time.sleep(_LOOK_S)

    def _is_needed(self) -> bool:
        is_followed = self._host.report().num_engines > 0
        return self._thread.is_alive() and is_followed and not self._host.is_empty
