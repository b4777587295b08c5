"""Several prompts of one request, as if they were one generation.

Output `i` of prompt `p` has the index `p * n + i`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from deployments.gateway.resume import Resume
from deployments.gateway.service import Generation
from deployments.types import Delta
from infra.tasks import end_all

_Item = Delta | Exception | None
"""A delta, a prompt's failure, or a prompt's end."""


class SeveralPrompts:
    """A `Generation` of several: one that fails fails all, leaving aborts all."""

    def __init__(self, generations: Sequence[Generation], outputs_per_prompt: int) -> None:
        first = generations[0]
        self.request_id = first.request_id
        self.model = first.model
        self.num_prompt_tokens = sum(each.num_prompt_tokens for each in generations)
        self._generations = generations
        self._outputs_per_prompt = outputs_per_prompt

    @property
    def queue_s(self) -> float:
        """The longest time that one of them waited to be admitted."""
        return max(each.queue_s for each in self._generations)

    @property
    def has_begun(self) -> bool:
        """An engine has had one of them."""
        return any(each.has_begun for each in self._generations)

    @property
    def resumes(self) -> list[Resume]:
        """Those of all of them."""
        return [resume for each in self._generations for resume in each.resumes]

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Deltas of all prompts as they come; see `Generation.deltas`."""
        # As small as may be, so that a slow client holds its engines' links up as one
        # prompt would.
        queue: asyncio.Queue[_Item] = asyncio.Queue(maxsize=1)
        pumps = [
            asyncio.ensure_future(self._pump(generation, number, queue))
            for number, generation in enumerate(self._generations)
        ]
        try:
            num_open = len(pumps)
            while num_open:
                match await queue.get():
                    case None:
                        num_open -= 1
                    case Delta() as delta:
                        yield delta
                    case failure:
                        raise failure
        finally:
            await end_all(pumps)

    async def _pump(
        self, generation: Generation, number: int, queue: asyncio.Queue[_Item]
    ) -> None:
        first = number * self._outputs_per_prompt
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for delta in deltas:
                    await queue.put(msgspec.structs.replace(delta, index=first + delta.index))
        except Exception as error:
            await _put_failure(error, queue)
        else:
            await queue.put(None)


async def _put_failure(error: Exception, queue: asyncio.Queue[_Item]) -> None:
    """Have it raised where the queue is read. Raises it itself where nobody reads any more."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    try:
        await queue.put(error)
    except asyncio.CancelledError:
        raise error from None
