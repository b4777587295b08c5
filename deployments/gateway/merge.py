"""Several streams as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """One stream is over, by this error or well."""

    error: BaseException | None


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """What the streams give, as it comes, until all have ended.

    One that fails ends the others and all, with its error; so does closing.
    """
    # As small as may be: whoever reads slowly holds the streams up as one would be.
    found: asyncio.Queue[T | _End] = asyncio.Queue(maxsize=1)
    tasks = [asyncio.create_task(_pump(stream, found)) for stream in streams]
    num_open = len(tasks)
    try:
        while num_open:
            item = await found.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                num_open -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: AsyncGenerator[T, None], found: asyncio.Queue[T | _End]) -> None:
    end = _End(None)
    try:
        async with aclosing(stream) as items:
            async for item in items:
                await found.put(item)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # whoever reads raises it
        end = _End(error)
    await found.put(end)
