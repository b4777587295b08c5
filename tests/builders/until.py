"""Waiting for what others do, within bounds."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object], limit_s: float, look_s: float = 0.3) -> None:
    """Look again and again, in this thread, until it is so."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {limit_s:g} s"
        time.sleep(look_s)
