"""A call whose engine replicas break, against the same call undisturbed."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.deltas import join
from deployments.gateway.resume import ResumableCall, Resume, ResumeOutcome, traits_of
from deployments.replica_lost import ReplicaLostError
from deployments.types import Call, Delta, Embedding, Pooling, Sampling, StructuredOutput
from infra.errors import (
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    NoReplicaError,
)
from router.resume import SamplingTraits
from tests.builders.breaking_engines import BreakingEngines

# Two characters of one byte, one of two and one of four.
TEXTS = st.text("ab\u00e9\U0001f642", min_size=1, max_size=6)
SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=4)
SAMPLINGS = st.sampled_from(
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "seed": 5},
        {"temperature": 0.0, "frequency_penalty": 0.5},
        {"temperature": 0.0, "structured_output": StructuredOutput(json_object=True)},
        {"seed": 5},
        {"seed": 5, "bad_words": ("b",)},
        {},
        {"presence_penalty": 0.5},
    ]
)


def call_for(**sampling: Any) -> Call:
    return Call("r", [1, 2, 3], Sampling(**({"max_tokens": 30} | sampling)))


def outcomes(resumable: ResumableCall) -> list[ResumeOutcome]:
    return [resume.outcome for resume in resumable.resumes]


async def collect(resumable: ResumableCall) -> dict[int, Delta]:
    """Each output as one delta."""
    found: dict[int, list[Delta]] = {}
    async with aclosing(resumable.deltas(5)) as deltas:
        async for delta in deltas:
            found.setdefault(delta.index, []).append(delta)
            resumable.check_invariants()
    return {index: join(pieces) for index, pieces in sorted(found.items())}


def broken(
    scripts: Sequence[str], sizes: Sequence[int], breaks: Sequence[int] = ()
) -> BreakingEngines:
    """They give out pieces of these sizes, again and again."""
    left = itertools.cycle(sizes)
    return BreakingEngines(
        scripts,
        breaks,
        size_of_piece=lambda: next(left),
        traits_of=lambda call: traits_of(call.sampling),
    )


def what_clients_see(outputs: dict[int, Delta]) -> list[tuple[Any, ...]]:
    return [
        (d.text, d.token_ids, d.finish_reason, d.stop_reason, d.logprobs, d.num_cached_tokens)
        for d in outputs.values()
    ]


def is_exact(traits: SamplingTraits) -> bool:
    return traits.is_repeatable or not traits.remembered


@given(
    sizes=SIZES,
    script=TEXTS,
    sampling=SAMPLINGS,
    stop=st.none() | st.text("ab\u00e9", min_size=1, max_size=3),
    breaks=st.lists(st.integers(0, 8), max_size=3),
)
async def test_however_often_it_breaks_the_answer_is_that_of_an_undisturbed_run(
    sizes: list[int],
    script: str,
    sampling: dict[str, Any],
    stop: str | None,
    breaks: list[int],
) -> None:
    call = call_for(**sampling, stop=(stop,) if stop else ())
    undisturbed = await collect(ResumableCall(broken([script], sizes), call, 0))
    engines = broken([script], sizes, breaks)
    resumable = ResumableCall(engines, call, len(breaks))
    try:
        found = await collect(resumable)
    except EngineError:
        assert not is_exact(traits_of(call.sampling))
        assert outcomes(resumable)[-1] == "refused"
    else:
        assert what_clients_see(found) == what_clients_see(undisturbed)
        assert len(resumable.resumes) == len(engines.calls) - 1
    assert engines.num_open == 0


@given(
    sizes=SIZES,
    scripts=st.lists(TEXTS, min_size=2, max_size=3),
    sampling=SAMPLINGS,
    breaks=st.lists(st.integers(0, 12), max_size=4),
)
async def test_each_of_several_outputs_is_that_of_an_undisturbed_run(
    sizes: list[int], scripts: list[str], sampling: dict[str, Any], breaks: list[int]
) -> None:
    call = call_for(**sampling, n=len(scripts))
    undisturbed = await collect(ResumableCall(broken(scripts, sizes), call, 0))
    engines = broken(scripts, sizes, breaks)
    resumable = ResumableCall(engines, call, len(breaks))
    texts = {output.text for output in undisturbed.values()}
    try:
        found = await collect(resumable)
    except EngineError:
        assert not is_exact(traits_of(call.sampling))
    else:
        assert found.keys() == undisturbed.keys()
        if traits_of(call.sampling).is_seeded and not traits_of(call.sampling).is_greedy:
            assert [o.text for o in found.values()] == [o.text for o in undisturbed.values()]
        # Outputs that nothing tells apart may be each other's.
        assert {output.text for output in found.values()} <= texts
        assert all(output.finish_reason == "length" for output in found.values())
    await asyncio.sleep(0)
    assert engines.num_open == 0


async def test_prompt_and_delivered_tokens_go_to_the_next_replica_apart() -> None:
    engines = BreakingEngines(["a\u00e9b"], breaks=[2])
    await collect(ResumableCall(engines, call_for(temperature=0), 2))
    first, second = engines.calls
    assert first.delivered is None
    assert second.delivered is not None
    # The second token is the first half of a character.
    assert (second.delivered.token_ids, second.delivered.num_chars) == ([97, 0xC3], 1)
    assert (second.token_ids, len(second.read_token_ids)) == ([1, 2, 3], 5)
    assert second.sampling == first.sampling
    assert len({first.request_id, second.request_id}) == 2


async def test_a_request_that_loses_too_many_replicas_fails_and_says_so() -> None:
    engines = BreakingEngines(["aaaa"], breaks=[1, 1, 1])
    resumable = ResumableCall(engines, call_for(temperature=0), 2)
    with pytest.raises(EngineError, match="3 engine replicas were lost") as failed:
        await collect(resumable)
    assert type(failed.value) is EngineError
    assert outcomes(resumable) == ["continue", "continue", "too_often"]


@pytest.mark.parametrize("num_outputs", [1, 2])
async def test_replicas_that_fall_silent_are_not_the_requests_fault(num_outputs: int) -> None:
    engines = BreakingEngines(["aaaaaa"], breaks=[1] * 5, fall_silent=True)
    resumable = ResumableCall(engines, call_for(temperature=0, n=num_outputs), 2)
    found = await collect(resumable)
    assert [found[index].text for index in range(num_outputs)] == ["aaaaaa"] * num_outputs
    assert len(resumable.resumes) >= 5


@pytest.mark.parametrize("fall_silent", [False, True])
async def test_nothing_is_resumed_where_the_operator_wants_none(fall_silent: bool) -> None:
    engines = BreakingEngines(["aa"], breaks=[1], fall_silent=fall_silent)
    resumable = ResumableCall(engines, call_for(), 0)
    with pytest.raises(EngineError, match="died; try again") as failed:
        await collect(resumable)
    assert type(failed.value) is EngineError


async def test_an_inexact_request_is_refused_with_the_field_that_makes_it_so() -> None:
    engines = BreakingEngines(["aaaa"], breaks=[2])
    resumable = ResumableCall(engines, call_for(presence_penalty=1.0), 2)
    with pytest.raises(EngineError, match="presence_penalty"):
        await collect(resumable)
    assert outcomes(resumable) == ["refused"]
    assert len(engines.calls) == 1


class DriftingEngines(BreakingEngines):
    """Each run has another script."""

    def _tokens(self, call: Call, index: int) -> list[int]:
        return list(self.scripts[len(self.calls) - 1].encode())


@pytest.mark.parametrize("other", ["aXaa", "a", "aa"])
async def test_an_answer_that_comes_out_differently_fails_before_anything_comes_twice(
    other: str,
) -> None:
    engines = DriftingEngines(["aaab", other], breaks=[3])
    seen: list[int] = []
    with pytest.raises(EngineError, match="different answer"):
        async for delta in ResumableCall(engines, call_for(seed=1), 2).deltas(5):
            seen += delta.token_ids
    assert seen == list(b"aaa")


class PickyEngines(BreakingEngines):
    """Refuses to continue, as one whose model asks for penalties by itself."""

    async def run(self, call: Call, *arguments: Any) -> Any:
        if call.delivered is not None:
            raise InvalidArgumentError("the model's own defaults")
        async with aclosing(super().run(call, *arguments)) as deltas:
            async for delta in deltas:
                yield delta


async def test_what_an_engine_refuses_to_continue_is_replayed_where_that_is_exact() -> None:
    resumable = ResumableCall(PickyEngines(["aaab"], breaks=[2]), call_for(temperature=0), 2)
    assert (await collect(resumable))[0].text == "aaab"
    assert outcomes(resumable) == ["replay"]
    resumable = ResumableCall(PickyEngines(["aaab"], breaks=[2]), call_for(), 2)
    with pytest.raises(EngineError, match="another one refused: the model's own defaults"):
        await collect(resumable)
    assert outcomes(resumable) == ["refused"]


class LastEngine(BreakingEngines):
    """The only replica there is: later calls fail with this error."""

    error: Exception = NoReplicaError("none is ready")

    async def run(self, call: Call, *arguments: Any) -> Any:
        if self.calls:
            raise self.error
        async with aclosing(super().run(call, *arguments)) as deltas:
            async for delta in deltas:
                yield delta


@pytest.mark.parametrize("num_delivered", [0, 1])
async def test_where_no_other_replica_comes_the_request_has_failed_in_an_engine(
    num_delivered: int,
) -> None:
    resumable = ResumableCall(LastEngine(["aa"], breaks=[num_delivered]), call_for(), 2)
    with pytest.raises(EngineError, match="none is ready"):
        await collect(resumable)
    assert outcomes(resumable) == ["failed"]


async def test_the_deadline_counts_from_the_first_replica() -> None:
    engines = LastEngine(["aa"], breaks=[1])
    engines.error = DeadlineError("not begun within 0.1 s")
    with pytest.raises(DeadlineError, match="not finished within 5 s"):
        await collect(ResumableCall(engines, call_for(), 2))


async def test_the_pause_is_measured() -> None:
    now = iter(range(100))
    engines = BreakingEngines(["aa"], breaks=[1])
    resumable = ResumableCall(engines, call_for(temperature=0), 2, lambda: float(next(now)))
    await collect(resumable)
    # The clock is asked for the loss, for the time that is left and for the next piece.
    assert resumable.resumes == [Resume("continue", 2.0)]
    assert resumable.resumes[0].is_success


class EmbeddingEngines(BreakingEngines):
    """The second one has the vector."""

    async def run(self, call: Call, *arguments: Any) -> Any:
        self.calls.append(call)
        if len(self.calls) == 1:
            raise ReplicaLostError("gone")
        yield Embedding(index=0, text="", token_ids=[], finish_reason="stop", vector=b"1234")


async def test_an_embedding_is_made_again() -> None:
    engines = EmbeddingEngines([])
    call = Call("r", [1], Sampling(), pooling=Pooling())
    resumable = ResumableCall(engines, call, 2)
    found = [delta async for delta in resumable.deltas(5)]
    assert [type(delta) for delta in found] == [Embedding]
    assert outcomes(resumable) == ["restart"]


async def test_leaving_a_resumed_request_aborts_it() -> None:
    engines = BreakingEngines(["aaaa", "abbb"], breaks=[2])
    deltas = ResumableCall(engines, call_for(temperature=0, n=2), 2).deltas(5)
    for _ in range(3):
        await anext(deltas)
    assert len(engines.calls) > 1
    await deltas.aclose()
    assert engines.num_open == 0
