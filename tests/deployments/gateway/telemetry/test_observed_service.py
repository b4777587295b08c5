"""When observers hear of what, without doors."""

import asyncio
from contextlib import aclosing

import pytest

from deployments.gateway.telemetry.observation import Observation
from deployments.gateway.telemetry.observed_service import ObservedService
from deployments.types import CallOptions, Pooling, Sampling
from infra.errors import DeadlineError, UnknownModelError
from tests.builders.fake_service import FakeService, model_card, text_deltas


class Notes:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended: list[Observation] = []

    def on_start(self, observation: Observation) -> None:
        self.heard.append(f"start {observation.model}")

    def on_checked(self, observation: Observation) -> None:
        self.heard.append(f"checked {observation.model}")

    def on_end(self, observation: Observation) -> None:
        self.heard.append(f"end {observation.outcome}")
        self.ended.append(observation)


class Clock:
    """Advances by one second at each reading."""

    def __init__(self) -> None:
        self.now_s = 99.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def observed(service: FakeService) -> tuple[ObservedService, Notes]:
    notes = Notes()
    return ObservedService(service, [notes], clock_s=Clock(), now_s=lambda: 5.0), notes


async def run(service: ObservedService, *, stream: bool = True, n: int = 1) -> None:
    generation = await service.generate("", "abc", Sampling(n=n), CallOptions(stream=stream))
    async with aclosing(generation.deltas()) as deltas:
        async for _ in deltas:
            pass


async def test_start_check_and_end_are_heard_in_order_and_once() -> None:
    service, notes = observed(FakeService(text_deltas("a")))
    await run(service)
    assert notes.heard == ["start ", "checked tiny", "end finished"]


async def test_times_are_those_of_the_clock() -> None:
    # Readings: start 100, checked 101, deltas 102, 103 and 104, end 105.
    service, notes = observed(FakeService(text_deltas("ab", "cd", "ef")))
    await run(service)
    (found,) = notes.ended
    assert (found.ttft_s, found.tpot_s, found.duration_s) == (2.0, 0.5, 5.0)
    assert (found.num_prompt_tokens, found.num_output_tokens) == (3, 6)


@pytest.mark.parametrize(("stream", "n"), [(False, 1), (True, 2)])
async def test_there_is_no_time_per_token_for_whole_or_several_outputs(
    stream: bool, n: int
) -> None:
    service, notes = observed(FakeService(text_deltas("ab", "cd")))
    await run(service, stream=stream, n=n)
    assert notes.ended[0].tpot_s is None


async def test_a_generation_that_nobody_iterates_ends_as_aborted() -> None:
    service, notes = observed(FakeService(text_deltas("a")))
    generation = await service.generate("", "abc", Sampling(), CallOptions())
    deltas = generation.deltas()
    await deltas.aclose()
    assert notes.heard == ["start ", "checked tiny"]
    del generation, deltas
    assert notes.heard[2:] == ["end aborted"]


async def test_leaving_after_the_last_delta_is_an_end_and_before_it_an_abort() -> None:
    service, notes = observed(FakeService(text_deltas("a", "b")))
    for num_taken in (1, 2):
        generation = await service.generate("", "abc", Sampling(), CallOptions())
        async with aclosing(generation.deltas()) as deltas:
            for _ in range(num_taken):
                await anext(deltas)
    assert [o.outcome for o in notes.ended] == ["aborted", "finished"]


async def test_a_cancelled_request_is_aborted() -> None:
    service, notes = observed(FakeService([asyncio.Event()]))
    task = asyncio.create_task(run(service))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes.heard[2:] == ["end aborted"]


async def test_an_error_before_the_first_output_is_a_rejection_only_if_not_ours() -> None:
    for failure, outcome in (
        (UnknownModelError("x"), "rejected"),
        (DeadlineError("x"), "failed"),
    ):
        service, notes = observed(FakeService([failure]))
        with pytest.raises(type(failure)):
            await run(service)
        assert (notes.ended[0].outcome, notes.ended[0].error) == (outcome, failure.kind)


async def test_embeddings_have_no_time_to_first_token() -> None:
    service, notes = observed(FakeService(cards=[model_card(task="embed")]))
    generation = await service.embed("", ["a", "b"], Pooling(), CallOptions())
    async with aclosing(generation.deltas()) as deltas:
        assert [d.index async for d in deltas] == [0, 1]
    (found,) = notes.ended
    assert (found.operation, found.outcome, found.ttft_s) == ("embeddings", "finished", None)
