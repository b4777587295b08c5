"""What counts as an engine's work: alike in usage records and in metrics."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

from deployments.gateway.telemetry.billing import Billing
from deployments.gateway.telemetry.metrics import GatewayMetrics
from deployments.gateway.telemetry.observation import Observation
from deployments.gateway.telemetry.observed_service import ObservedGeneration, ObservedService
from deployments.types import CallOptions, Delta, Embedding, RequestId, Sampling
from infra.errors import (
    CapacityError,
    CoterieError,
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    NoReplicaError,
)
from infra.telemetry.usage_writer import UsageWriter
from tests.builders.fake_engine import FakeEngine
from tests.builders.fake_service import (
    FakeGeneration,
    FakeService,
    Step,
    model_card,
    text_deltas,
)
from tests.deployments.gateway.telemetry.test_observed_service import Notes
from tests.deployments.gateway.telemetry.test_records import records_in
from tests.deployments.gateway.telemetry.watched import cluster_service


class AdmittedGeneration:
    """Was held and admitted; then an engine had it, or none, and it failed."""

    request_id = RequestId("r")
    model = "tiny"
    num_prompt_tokens = 3
    queue_s = 0.5
    resumes = ()

    def __init__(self, error: Exception | None, *, has_begun: bool) -> None:
        self.has_begun = has_begun
        self._error = error

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `Generation.deltas`; without an error it is silent."""
        if self._error is None:
            await asyncio.Event().wait()
        else:
            raise self._error
        yield Delta(0, "", [])


class AdmittingService(FakeService):
    """Gives out one generation."""

    def __init__(self, generation: AdmittedGeneration) -> None:
        super().__init__()
        self._generation = generation

    async def generate(self, *_: object) -> FakeGeneration:
        """See `InferenceService.generate`."""
        return self._generation  # type: ignore[return-value]


async def counted(generation: AdmittedGeneration, folder: Path) -> tuple[list[str], float]:
    """Outcomes in the usage records, and the prompt tokens that metrics counted."""
    writer, metrics = UsageWriter(folder, 4096), GatewayMetrics(10)
    service = ObservedService(
        AdmittingService(generation), [metrics, Billing(writer, model_card)]
    )
    observed = await service.generate("tiny", "abc", Sampling(), CallOptions())
    assert isinstance(observed, ObservedGeneration)
    with suppress(CoterieError, TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(observed.deltas())
    writer.close()
    labels = {"model": "tiny", "tenant": "anonymous"}
    found = metrics.registry.get_sample_value("coterie_prompt_tokens_total", labels)
    return [record.outcome for record in records_in(folder)], found or 0.0


@pytest.mark.parametrize(
    "error", [DeadlineError("late"), CapacityError("full"), NoReplicaError("none"), None]
)
async def test_a_request_that_was_admitted_but_no_engine_had_is_not_billed(
    tmp_path: Path, error: Exception | None
) -> None:
    found = await counted(AdmittedGeneration(error, has_begun=False), tmp_path)
    assert found == ([], 0)


@pytest.mark.parametrize("error", [NoReplicaError("drains"), InvalidArgumentError("13")])
async def test_what_an_engine_turned_away_is_not_billed(
    tmp_path: Path, error: Exception
) -> None:
    found = await counted(AdmittedGeneration(error, has_begun=True), tmp_path)
    assert found == ([], 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "aborted"), (DeadlineError("late"), "failed"), (EngineError("gone"), "failed")],
)
async def test_a_prompt_that_an_engine_worked_on_counts_though_no_output_came(
    tmp_path: Path, error: Exception | None, outcome: str
) -> None:
    found = await counted(AdmittedGeneration(error, has_begun=True), tmp_path)
    assert found == ([outcome], 3)


async def test_a_request_has_begun_once_a_link_has_taken_it() -> None:
    engine = FakeEngine(is_free_running=False)
    async with cluster_service(engine) as service, asyncio.timeout(5):
        generation = await service.generate(
            "tiny", "abc", Sampling(max_tokens=1), CallOptions()
        )
        before = generation.has_begun
        first = asyncio.ensure_future(anext(generation.deltas()))
        while not engine.open_request_ids:
            await asyncio.sleep(0.005)
        assert (before, generation.has_begun) == (False, True)
        engine.step()
        await first


async def test_a_deadline_that_passes_while_held_is_a_rejection() -> None:
    notes = Notes()
    generation = AdmittedGeneration(DeadlineError("late"), has_begun=False)
    service = ObservedService(AdmittingService(generation), [notes])
    observed = await service.generate("tiny", "abc", Sampling(), CallOptions())
    with pytest.raises(DeadlineError):
        await anext(observed.deltas())
    assert (notes.ended[0].outcome, notes.ended[0].error) == ("rejected", "deadline_exceeded")


async def test_an_error_after_an_aborted_output_is_still_an_error() -> None:
    notes = Notes()
    script: list[Step] = [Delta(0, "a", [97], "abort"), EngineError("gone")]
    service = ObservedService(FakeService(script), [notes])
    observed = await service.generate("", "abc", Sampling(n=2), CallOptions())
    with pytest.raises(EngineError):
        async for _ in observed.deltas():
            pass
    assert (notes.ended[0].outcome, notes.ended[0].error) == ("failed", "engine_failed")


def seen(operation: str, num_outputs: int, *deltas: Delta) -> Observation:
    made = Observation(
        operation,  # type: ignore[arg-type]
        "tiny",
        Sampling(n=num_outputs),
        CallOptions(),
        0.0,
        0.0,
    )
    for delta in deltas:
        made.saw(delta, 1.0)
    return made


def test_cached_tokens_of_several_embeddings_are_summed() -> None:
    found = seen(
        "embeddings",
        2,
        *(
            Embedding(i, "", [], "stop", num_cached_tokens=num, vector=b"")
            for i, num in enumerate((4, 3))
        ),
    )
    assert found.num_cached_tokens == 7


def test_cached_tokens_of_one_prompt_s_outputs_are_counted_once() -> None:
    outputs = [text_deltas("a", index=i, num_cached_tokens=4)[0] for i in range(2)]
    assert seen("chat", 2, *outputs).num_cached_tokens == 4


def test_finish_reasons_are_in_the_order_of_the_outputs() -> None:
    found = seen("chat", 2, Delta(1, "b", [98], "stop"), Delta(0, "a", [97], "length"))
    assert found.finish_reasons == ["length", "stop"]
