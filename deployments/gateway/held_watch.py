"""Tells those who decide how many engine replicas there are how many sequences wait here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.gateway.served_model import ServedModel
from infra.errors import CoterieError

log = logging.getLogger(__name__)

_LOOK_S = 0.5

Wake = Callable[[], Awaitable[object]]
"""Answered by an engine replica, as soon as there is one."""


class HeldWatch:
    """Of one model: looks now and then at how many wait, and tells its engine replicas of a
    change. Where there is none, it calls for one, until one comes or nobody waits."""

    def __init__(
        self,
        served: ServedModel,
        num_held: Callable[[], int],
        wake: Wake,
        look_s: float = _LOOK_S,
    ) -> None:
        self._served = served
        self._num_held = num_held
        self._wake = wake
        self._look_s = look_s
        self._waking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on; call it in the event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more, and call for nobody."""
        tasks = [task for task in (self._task, self._waking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(self._look_s)

    def _look(self) -> None:
        num_held = self._num_held()
        self._served.tell_held(num_held)
        is_wanted = num_held > 0 and not self._served.has_replicas
        if is_wanted and (self._waking is None or self._waking.done()):
            log.info("calling for an engine of %s", self._served.section.name)
            self._waking = asyncio.create_task(self._call())
        elif not is_wanted and self._waking is not None:
            self._waking.cancel()
            self._waking = None

    async def _call(self) -> None:
        try:
            await self._wake()
        except CoterieError as error:
            log.warning("called for an engine in vain: %s", error)
