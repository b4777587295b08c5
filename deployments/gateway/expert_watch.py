"""What the directors of expert hosts last said, for a gateway's metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

PERIOD_S = 5.0

Ask = Callable[[], Awaitable[dict[str, Any]]]
"""Asks a model's director for its status; raises where there is none at the moment."""


class ExpertWatch:
    """Asks all directors again and again, in the event loop, from `start` until `close`."""

    def __init__(self, model_to_ask: Mapping[str, Ask], period_s: float = PERIOD_S) -> None:
        self._model_to_ask = model_to_ask
        self._period_s = period_s
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def latest(self) -> Mapping[str, Mapping[str, Any]]:
        """By model, what `experts.director.status.status_of` says; without those whose
        director does not answer."""
        return self._latest

    def start(self) -> None:
        """Once."""
        self._tasks = [
            asyncio.create_task(self._follow(model, ask))
            for model, ask in self._model_to_ask.items()
        ]

    async def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, model: str, ask: Ask) -> None:
        while True:
            try:
                async with asyncio.timeout(2 * self._period_s):
                    self._latest[model] = (await ask())["experts"]
            except Exception as error:  # whatever Ray raises for a replica that is gone
                self._latest.pop(model, None)
                log.debug("the director of %s does not answer: %s", model, error)
            await asyncio.sleep(self._period_s)
