"""Engine replicas that break where they are told to; they speak `gateway.resume.Runner`.

Tokens are bytes of UTF-8, and each output of a call has its own script of them. Like a
real engine they hold text back: the beginning of a character, and what may be that of a
stop string. What a real engine would get wrong they get wrong: a seeded call, or one whose
sampling remembers its outputs, makes other tokens when it is continued.
"""

import codecs
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from deployments.replica_lost import ReplicaLostError
from deployments.types import Call, Delta, TokenLogprob, TokenLogprobs
from router.resume import SamplingTraits

WRONG = ord("!")


def text_of(token_ids: Sequence[int]) -> str:
    """As far as its characters are whole."""
    return codecs.getincrementaldecoder("utf-8")().decode(bytes(token_ids))


def logprobs_of(token_ids: Sequence[int], start: int) -> tuple[TokenLogprobs, ...]:
    """Told by the place in the output: one that is asked for twice shows."""
    places = enumerate(token_ids, start)
    return tuple(TokenLogprobs(TokenLogprob(t, -place, chr(t), 1), ()) for place, t in places)


@dataclass
class BreakingEngines:
    """`scripts` are the outputs' texts; each run breaks after so many tokens as `breaks`
    has for it, and those behind the last do not break. `size_of_piece` cuts the deltas. Where
    they fall silent, they do so instead of dying."""

    scripts: Sequence[str]
    breaks: Sequence[int] = ()
    size_of_piece: Callable[[], int] = lambda: 1
    traits_of: Callable[[Call], SamplingTraits] = lambda _: SamplingTraits(True, False)
    calls: list[Call] = field(default_factory=list)
    num_open: int = 0
    fall_silent: bool = False

    async def run(
        self, call: Call, timeout_s: float, on_begun: Callable[[bool], None] = lambda _: None
    ) -> AsyncGenerator[Delta, None]:
        """See `Runner.run`."""
        on_begun(True)
        number = len(self.calls)
        self.calls.append(call)
        num_left = self.breaks[number] if number < len(self.breaks) else None
        self.num_open += 1
        try:
            for delta in self._deltas(call):
                if num_left is not None:
                    if num_left < len(delta.token_ids):
                        error = ReplicaLostError("the engine replica died; try again")
                        error.was_silent = self.fall_silent
                        raise error
                    num_left -= len(delta.token_ids)
                yield delta
        finally:
            self.num_open -= 1

    def _deltas(self, call: Call) -> Iterator[Delta]:
        """Of all outputs, in turn."""
        waiting = deque(self._output(call, index) for index in range(call.sampling.n))
        while waiting:
            output = waiting.popleft()
            delta = next(output)
            yield delta
            if delta.finish_reason is None:
                waiting.append(output)

    def _output(self, call: Call, index: int) -> Iterator[Delta]:
        sampling, tokens = call.sampling, self._tokens(call, index)
        start = 0 if call.delivered is None else len(call.delivered.token_ids)
        num_given = 0 if call.delivered is None else call.delivered.num_chars
        num_cached = 2 + start
        stop = sampling.stop[0] if sampling.stop else None
        while True:
            end = min(start + self.size_of_piece(), len(tokens))
            if stop:
                # The token that completes a stop string is the last.
                ends = range(start + 1, end)
                end = next((e for e in ends if stop in text_of(tokens[:e])), end)
            text = text_of(tokens[:end])
            is_stopped = stop is not None and stop in text
            is_finished = is_stopped or end == len(tokens)
            held = 0 if is_finished or not stop else len(stop) - 1
            shown = text[: text.index(stop)] if is_stopped and stop else text
            shown = shown[: max(num_given, len(shown) - held)]
            yield Delta(
                index=index,
                text=shown[num_given:],
                token_ids=tokens[start:end],
                finish_reason=None if not is_finished else "stop" if is_stopped else "length",
                stop_reason=stop if is_stopped else None,
                logprobs=logprobs_of(tokens[start:end], start),
                num_cached_tokens=num_cached,
            )
            if is_finished:
                return
            start, num_given = end, len(shown)

    def _tokens(self, call: Call, index: int) -> list[int]:
        """All tokens of the output, delivered ones included."""
        traits, scripts = self.traits_of(call), self.scripts
        if call.delivered is None:
            # Greedy outputs are all the same; seeds are told apart as vLLM does it.
            number = 0 if traits.is_greedy else index + (call.sampling.seed or 0)
            return list(scripts[number % len(scripts)].encode())
        delivered = call.delivered.token_ids
        if traits.remembered or (traits.is_seeded and not traits.is_greedy):
            return [*delivered, WRONG]
        found = (list(script.encode()) for script in scripts)
        return next(tokens for tokens in found if tokens[: len(delivered)] == delivered)
