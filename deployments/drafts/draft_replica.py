"""The Serve deployment of draft replicas: each runs a small model for all engines that ask.

Engines reach it by its links: see `deployments.link_hosts.replica`.
"""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from deployments.autoscaling import BUSY
from deployments.link_hosts.replica import HostReplica
from deployments.models.resolve import resolve_model
from infra.errors import ConfigError

if TYPE_CHECKING:
    from deployments.drafts.host.host import DraftHost

# Until engines have seen that it is off their list.
_LEAVE_S = 1.5


class DraftReplica(HostReplica["DraftHost"]):
    """Made a Serve deployment in `deployments.drafts.deployment`."""

    kind = "draft replica"

    def _open(self, link: dict[str, str]) -> "DraftHost":
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
        self._opened_s = time.monotonic()
        self._watched = self._opened_s, 0.0
        return DraftHost.open(Path(engine.path), Path(draft.path), settings)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `BusySharePolicy` goes by; Serve itself sees no requests here."""
        return {BUSY: self._busy_share()}

    def _busy_share(self) -> float:
        """Since the last call."""
        before, now = self._watched, (time.monotonic(), self._host.loop.busy_s)
        self._watched = now
        return min((now[1] - before[1]) / max(now[0] - before[0], 1e-3), 1.0)

    async def status(self) -> dict[str, Any]:
        """What it is and does."""
        loop = self._host.loop
        return self._status() | {
            "num_engines": loop.num_engines,
            "num_answers": loop.num_answers,
            "busy_s": round(loop.busy_s, 3),
            "running_s": round(time.monotonic() - self._opened_s, 3),
        }

    async def __del__(self) -> None:
        """Serve has taken it off its list: engines leave it by themselves, within a second."""
        self._scratch.free_cores()
        await asyncio.sleep(_LEAVE_S)
        await self._end()
