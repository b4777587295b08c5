"""An engine that speaks `CallRunner`: scripted tokens, one a step."""

import asyncio
from collections.abc import AsyncGenerator

from deployments.types import Call, Delta
from infra.errors import InvalidArgumentError


class FakeEngine:
    """Answers a call with its `max_tokens` first numbers as tokens, behind delivered ones.

    All open calls advance together at `step()`, or at once if `is_free_running`.
    A call whose first prompt token is 13 is refused.
    """

    def __init__(self, *, is_free_running: bool = True) -> None:
        self.is_free_running = is_free_running
        self.open_calls: dict[str, Call] = {}
        self.aborted_request_ids: list[str] = []
        self._step = asyncio.Event()

    @property
    def open_request_ids(self) -> set[str]:
        """Of the calls that are under way."""
        return set(self.open_calls)

    def step(self) -> None:
        """Let every open call make one token."""
        self._step.set()
        self._step = asyncio.Event()

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """See `CallRunner.run`."""
        if call.token_ids[0] == 13:
            raise InvalidArgumentError("13 is unlucky", param="prompt")
        self.open_calls[call.request_id] = call
        num_tokens = call.sampling.max_tokens or 1
        num_delivered = 0 if call.delivered is None else len(call.delivered.token_ids)
        is_done = False
        try:
            for number in range(num_delivered, num_tokens):
                await (asyncio.sleep(0) if self.is_free_running else self._step.wait())
                is_done = number == num_tokens - 1
                reason = "length" if is_done else None
                yield Delta(0, f"{number} ", [number], reason), is_done  # type: ignore[arg-type]
        finally:
            self.open_calls.pop(call.request_id, None)
            if not is_done:
                self.aborted_request_ids.append(call.request_id)
