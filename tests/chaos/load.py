"""A steady load: clients that ask one thing after the other, and know what must be said."""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from coterie import AsyncClient, CoterieError
from tests.builders.streams import prompt_for

OK, WRONG = "ok", "wrong"
_LIMIT_S = 120.0


@dataclass
class Asked:
    """One request, as its client saw it."""

    model: str
    prompt: int
    began_s: float
    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    """Of its beginning, and of each piece."""
    outcome: str = ""
    """`ok`, `wrong`, or the kind of the error; empty while it is under way."""

    def longest_pause_s(self, after_s: float) -> float:
        """Without a piece, of what was after this moment."""
        pauses = [b - a for a, b in itertools.pairwise(self.times_s) if b > after_s]
        return max(pauses, default=0.0)


@dataclass(frozen=True)
class Verdict:
    """Of all requests that were under way or began in a span of time."""

    num_requests: int
    num_wrong: int
    lost: Mapping[str, int]
    """By the kind of error."""
    longest_pause_s: float


class SteadyLoad:
    """So many clients of a model, each with a connection of its own."""

    def __init__(
        self, address: str, models: Sequence[str], num_clients: int, num_tokens: int
    ) -> None:
        self._address = address
        self._models = models
        self._num_clients = num_clients
        self._num_tokens = num_tokens
        self._expected: dict[tuple[str, int], list[int]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[AsyncClient] = []
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        """Learns what is said in peace, and begins."""
        async with AsyncClient(self._address) as client:
            for model, number in itertools.product(self._models, range(self._num_clients)):
                asked = await self._ask(client, model, number)
                assert asked.outcome == OK, asked.outcome
                self._expected[model, number] = asked.token_ids
        for number in range(self._num_clients):
            self._clients.append(AsyncClient(self._address))
            model = self._models[number % len(self._models)]
            self._tasks.append(asyncio.create_task(self._go_on(number, model)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def settle(self, since_s: float) -> None:
        """Wait until all that began before now has ended."""
        now_s = time.monotonic()
        async with asyncio.timeout(_LIMIT_S):
            while any(not a.outcome and a.began_s < now_s for a in self._of(since_s)):
                await asyncio.sleep(0.1)

    def verdict(self, since_s: float) -> Verdict:
        """Of what was under way then, or began since, and has ended."""
        ended = [asked for asked in self._of(since_s) if asked.outcome]
        outcomes = Counter(asked.outcome for asked in ended)
        wrong = outcomes.pop(WRONG, 0)
        outcomes.pop(OK, None)
        pauses = [asked.longest_pause_s(since_s) for asked in ended]
        return Verdict(len(ended), wrong, dict(outcomes), max(pauses, default=0.0))

    def _of(self, since_s: float) -> list[Asked]:
        return [a for a in self.asked if not a.outcome or a.times_s[-1] >= since_s]

    async def _go_on(self, number: int, model: str) -> None:
        prompts = itertools.cycle(range(self._num_clients))
        for _ in range(number):
            next(prompts)
        while True:
            asked = await self._ask(self._clients[number], model, next(prompts))
            if asked.outcome not in (OK, WRONG):
                await asyncio.sleep(0.2)

    async def _ask(self, client: AsyncClient, model: str, prompt: int) -> Asked:
        asked = Asked(model, prompt, time.monotonic())
        asked.times_s.append(asked.began_s)
        self.asked.append(asked)
        try:
            stream = client.generate(
                prompt_for(prompt),
                model=model,
                max_tokens=self._num_tokens,
                ignore_eos=True,
                temperature=0,
                timeout_s=_LIMIT_S,
            )
            async for chunk in stream:
                asked.times_s.append(time.monotonic())
                asked.token_ids += chunk.token_ids
        except CoterieError as error:
            asked.times_s.append(time.monotonic())
            asked.outcome = type(error).__name__
            print(f"lost: {asked.outcome}: {error}", file=sys.stderr, flush=True)
            return asked
        expected = self._expected.get((model, prompt), asked.token_ids)
        asked.outcome = OK if asked.token_ids == expected else WRONG
        return asked
