"""Spans of an engine's steps, at a receiver of the real protocol."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra.telemetry.settings import TelemetrySection
from infra.telemetry.step_spans import STEP_EVERY_S, StepSpans
from infra.telemetry.tracing import Tracing, begin_child, child_span
from tests.builders.otlp_receiver import OtlpReceiver, receiving
from tests.builders.traced_request import CLIENT_SPAN, TRACE_ID, TRACEPARENT

OTHER = "0af7651916cd43dd8448eb211c80319c"
CARRIER = {"traceparent": TRACEPARENT}
OTHER_CARRIER = {"traceparent": f"00-{OTHER}-b7ad6b7169203331-01"}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def recording(clock: Clock | None = None) -> Iterator[tuple[StepSpans, OtlpReceiver]]:
    """What was received is there after the block."""
    with receiving() as (receiver, endpoint):
        tracing = Tracing.start(
            TelemetrySection(otlp_endpoint=endpoint, trace_sampling_ratio=1.0), "engine"
        )
        assert tracing is not None
        steps = StepSpans(tracing, 3, clock or Clock())
        yield steps, receiver
        steps.close()


def test_a_step_with_a_traced_request_is_a_span_below_the_requests_own() -> None:
    with recording() as (steps, receiver):
        steps.know("r", CARRIER)
        steps.begin({"r": 7, "untraced": 1})
        with steps.within(), child_span("draft") as span:
            assert span is not None
            span.set_attribute("coterie.draft.tokens", 5)
        steps.end()
    step, draft = receiver.named("step"), receiver.named("draft")
    assert (step.trace_id, step.parent_id) == (TRACE_ID, CLIENT_SPAN)
    assert step.attributes == {
        "coterie.step.rank": 3,
        "coterie.step.sequences": 2,
        "coterie.step.tokens": 8,
    }
    assert (draft.trace_id, draft.parent_id) == (TRACE_ID, step.span_id)
    assert draft.attributes == {"coterie.draft.tokens": 5}
    assert step.started_ns <= draft.started_ns <= draft.ended_ns <= step.ended_ns


def test_it_is_linked_to_the_other_traced_requests_of_its_batch() -> None:
    with recording() as (steps, receiver):
        steps.know("r", CARRIER)
        steps.know("s", OTHER_CARRIER)
        steps.begin({"r": 1, "s": 1})
    assert receiver.named("step").links == ((OTHER, "b7ad6b7169203331"),)


def test_a_step_without_a_traced_request_has_none_and_nothing_below_it() -> None:
    with recording() as (steps, receiver):
        steps.know("elsewhere", CARRIER)
        steps.begin({"untraced": 1})
        with steps.within():
            assert begin_child("dispatch") is None
        steps.end()
    assert receiver.spans == []


def test_a_request_that_is_gone_is_traced_no_more() -> None:
    with recording() as (steps, receiver):
        steps.know("r", CARRIER)
        steps.forget({"r", "never known"})
        steps.begin({"r": 1})
    assert receiver.spans == []


def test_of_many_steps_one_a_second_is_recorded() -> None:
    clock = Clock()
    with recording(clock) as (steps, receiver):
        steps.know("r", CARRIER)
        for _ in range(21):
            steps.begin({"r": 1})
            steps.end()
            clock.now_s += STEP_EVERY_S / 8
    assert len(receiver.spans) == 3


def test_a_step_that_nobody_has_ended_ends_with_the_next() -> None:
    clock = Clock()
    with recording(clock) as (steps, receiver):
        steps.know("r", CARRIER)
        for _ in range(2):
            steps.begin({"r": 1})
            clock.now_s += STEP_EVERY_S
    first, second = receiver.spans
    assert first.ended_ns <= second.started_ns


def test_links_are_bounded() -> None:
    with recording() as (steps, receiver):
        names = [f"r{number}" for number in range(100)]
        for number, name in enumerate(names, 1):
            steps.know(name, {"traceparent": f"00-{number:032x}-b7ad6b7169203331-01"})
        steps.begin(dict.fromkeys(names, 1))
    assert len(receiver.named("step").links) == 32
