"""A call that outlives its engine replica: it goes on with another one.

    run on a replica ──lost──> ways ──> run on another ──> ... ──> last delta
                                └──> not exactly, or too often: EngineError

`router.resume` says how an output goes on, and has the table of what is exact. The client
sees a pause: nothing comes twice, nothing is left out. Of several outputs each that is
unfinished goes on as a call of its own.
"""

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, Protocol, get_args

import msgspec

from deployments.gateway.call_id import new_call_id
from deployments.gateway.delivered import OutputProgress, Replay
from deployments.gateway.link import OnBegun
from deployments.gateway.merge import merged
from deployments.replica_lost import ReplicaLostError
from deployments.types import Call, Delivered, Delta, Sampling
from infra.errors import (
    CapacityError,
    CoterieError,
    DeadlineError,
    EngineError,
    RequestError,
    field,
)
from router.resume import SamplingTraits, Way, ways

log = logging.getLogger(__name__)

ResumeOutcome = Literal["restart", "continue", "replay", "refused", "too_often", "failed"]


class Resume(msgspec.Struct, frozen=True):
    """What came of the loss of one output's replica, and after how long.

    | outcome | |
    |---|---|
    | a `router.resume.Way` | the output went on by it |
    | `refused` | it could not have gone on exactly |
    | `too_often` | it had been resumed `max_resumes` times before |
    | `failed` | no other replica took it, or was lost too, before anything came |
    """

    outcome: ResumeOutcome
    pause_s: float

    @property
    def is_success(self) -> bool:
        """The output went on."""
        return self.outcome in get_args(Way)


class Runner(Protocol):
    """Gives calls to engine replicas; `ServedModel` is the real one."""

    def run(
        self, call: Call, timeout_s: float, on_begun: OnBegun = ...
    ) -> AsyncGenerator[Delta, None]:
        """Deltas of the call, all from one replica; closing aborts it.

        Raises ReplicaLostError where that replica is lost, and what the engine raises.
        """
        ...


class ResumableCall:
    """See the module. Iterate `deltas` once; `resumes` tells of the losses so far."""

    def __init__(
        self,
        runner: Runner,
        call: Call,
        max_resumes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resumes: list[Resume] = []
        self._runner = runner
        self._call = call
        self._max_resumes = max_resumes
        self._clock = clock
        self._outputs = [OutputProgress() for _ in range(call.sampling.n)]
        self._num_cached_tokens: int | None = None
        self._timeout_s = self._end_s = 0.0

    def deltas(
        self, timeout_s: float, on_begun: OnBegun = lambda _: None
    ) -> AsyncGenerator[Delta, None]:
        """Deltas of the call until its last. Closing early aborts it.

        `on_begun` hears of the first replica alone. Raises what the engine raises,
        DeadlineError after `timeout_s`, EngineError where the call cannot go on.
        """
        self._timeout_s, self._end_s = timeout_s, self._clock() + timeout_s
        first = self._runner.run(_with_new_id(self._call), timeout_s, on_begun)
        if len(self._outputs) == 1:
            return self._output(0, first)
        return self._all_outputs(first)

    async def _all_outputs(
        self, first: AsyncGenerator[Delta, None]
    ) -> AsyncGenerator[Delta, None]:
        """All outputs in one call, until that is lost."""
        try:
            async with aclosing(first) as deltas:
                async for delta in deltas:
                    self._saw(delta)
                    yield delta
            return
        except ReplicaLostError as error:
            lost = error
        left = [i for i, output in enumerate(self._outputs) if not output.is_finished]
        num = _num_blamed(lost)
        rest = [self._output(i, self._resumed(i, num, lost), num_blamed=num) for i in left]
        async with aclosing(merged(rest)) as deltas:
            async for delta in deltas:
                yield delta

    async def _output(
        self, index: int, deltas: AsyncGenerator[Delta, None], num_blamed: int = 0
    ) -> AsyncGenerator[Delta, None]:
        """One output, over as many replicas as it takes."""
        while True:
            try:
                async with aclosing(deltas):
                    async for delta in deltas:
                        self._saw(delta)
                        yield delta
                return
            except ReplicaLostError as error:
                num_blamed += _num_blamed(error)
                deltas = self._resumed(index, num_blamed, error)

    async def _resumed(
        self, index: int, num_blamed: int, lost: ReplicaLostError
    ) -> AsyncGenerator[Delta, None]:
        """The rest of the output, from another replica."""
        loss = _Loss(self.resumes, self._clock)
        if num_blamed > self._max_resumes or not self._max_resumes:
            loss.settle("too_often")
            raise _too_often(num_blamed, lost)
        told: RequestError | None = None
        for way in ways(traits_of(self._call.sampling), len(self._outputs[index].token_ids)):
            try:
                async with aclosing(self._run(index, way, lost)) as deltas:
                    async for delta in deltas:
                        loss.settle(way)
                        yield delta
                return
            except RequestError as error:
                told = error
            except CoterieError:
                loss.settle("failed")
                raise
        loss.settle("refused")
        raise _inexact(self._call.sampling, told)

    async def _run(
        self, index: int, way: Way, lost: ReplicaLostError
    ) -> AsyncGenerator[Delta, None]:
        """What is new of the output, as a piece of the client's call."""
        delivered = self._outputs[index].delivered()
        call = self._call_for(index, delivered if way == "continue" else None)
        replay = Replay(delivered) if way == "replay" else None
        log.warning(
            "request %s output %d: %s; %s after %d tokens, as %s",
            self._call.request_id, index, lost.message, way, len(delivered.token_ids),
            call.request_id,
        )  # fmt: skip
        left_s = self._end_s - self._clock()
        try:
            async with aclosing(self._runner.run(call, left_s)) as deltas:
                async for delta in deltas:
                    rest = delta if replay is None else replay.rest_of(delta)
                    if rest is not None:
                        yield self._fitted(rest, index)
        except DeadlineError as error:
            raise DeadlineError(f"not finished within {self._timeout_s:g} s") from error
        except CapacityError as error:
            raise EngineError(f"{lost.message}; it did not go on: {error.message}") from error

    def _call_for(self, index: int, delivered: Delivered | None) -> Call:
        """This output alone. The engine seeds each of several from the seed and its index."""
        sampling = self._call.sampling
        seed = None if sampling.seed is None else sampling.seed + index
        alone = msgspec.structs.replace(sampling, n=1, seed=seed)
        call = msgspec.structs.replace(self._call, sampling=alone, delivered=delivered)
        return _with_new_id(call)

    def _fitted(self, delta: Delta, index: int) -> Delta:
        # A continued output finds its own first part in the cache.
        cached = self._num_cached_tokens
        return msgspec.structs.replace(
            delta,
            index=index,
            num_cached_tokens=delta.num_cached_tokens if cached is None else cached,
        )

    def _saw(self, delta: Delta) -> None:
        self._outputs[delta.index].saw(delta)
        self._num_cached_tokens = max(self._num_cached_tokens or 0, delta.num_cached_tokens)

    def check_invariants(self) -> None:
        """No output has more tokens than it may; each loss has one outcome."""
        for output in self._outputs:
            output.check_invariants()
            assert len(output.token_ids) <= (self._call.sampling.max_tokens or math.inf)
        assert all(resume.pause_s >= 0 for resume in self.resumes)


class _Loss:
    """The time of a loss; the first outcome counts."""

    def __init__(self, resumes: list[Resume], clock: Callable[[], float]) -> None:
        self._resumes = resumes
        self._clock = clock
        self._since_s = clock()
        self._is_settled = False

    def settle(self, outcome: ResumeOutcome) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._resumes.append(Resume(outcome, self._clock() - self._since_s))


def traits_of(sampling: Sampling) -> SamplingTraits:
    """What the router must know of it."""
    fields = ("presence_penalty", "frequency_penalty", "bad_words", "structured_output")
    return SamplingTraits(
        is_greedy=sampling.temperature == 0,
        is_seeded=sampling.seed is not None,
        remembered=tuple(name for name in fields if getattr(sampling, name)),
    )


def _with_new_id(call: Call) -> Call:
    # The client's id may come twice; the engine's must not.
    return msgspec.structs.replace(call, request_id=new_call_id(call.request_id))


def _num_blamed(lost: ReplicaLostError) -> int:
    """Losses of which the request may be the cause: one that is out of reach has others."""
    return int(not lost.was_silent)


def _too_often(num_blamed: int, lost: ReplicaLostError) -> EngineError:
    if num_blamed <= 1:
        return EngineError(lost.message)
    return EngineError(
        f"{num_blamed} engine replicas were lost one after another while they worked on this "
        "request; it may be the cause: change it before you send it again"
    )


def _inexact(sampling: Sampling, told: RequestError | None) -> EngineError:
    if told is not None:
        return EngineError(f"the engine replica died, and another one refused: {told.message}")
    names = " and ".join(field(name) for name in traits_of(sampling).remembered)
    return EngineError(
        f"the engine replica died in the middle of the answer; sampled with {names} it goes "
        f"on exactly only with {field('temperature')} 0 or a {field('seed')}; try again"
    )
