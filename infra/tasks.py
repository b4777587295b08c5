"""Tasks of one piece of work, which end with it."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel those that still run, wait for their end, and log what they fail with by then.

    What a task failed with before is told to whoever awaits it.
    """
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    for failure in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(failure, Exception):
            log.warning("a task failed while it was ended", exc_info=failure)
