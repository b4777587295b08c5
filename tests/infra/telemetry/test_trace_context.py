"""What is taken from a request's headers, and what is left."""

import pytest

from infra.telemetry.trace_context import carrier_in, is_sampled, trace_id_of

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_three_headers_are_taken_and_no_others() -> None:
    headers = [
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
        ("authorization", "Bearer secret"),
    ]
    assert carrier_in(headers) == {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}


def test_a_request_without_them_has_no_carrier() -> None:
    assert carrier_in([("x-request-id", "r")]) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT + "-00",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_a_traceparent_against_the_standard_is_left_out(value: str) -> None:
    assert carrier_in([("traceparent", value)]) is None


def test_what_is_too_long_or_cannot_be_printed_is_left_out() -> None:
    headers: list[tuple[str, str | bytes]] = [
        ("tracestate", "a" * 513),
        ("baggage", "b" * 8193),
        ("baggage", "line\nbreak"),
        ("traceparent", PARENT.encode()),
    ]
    assert carrier_in(headers) is None


def test_the_flags_say_whether_it_is_sampled() -> None:
    assert is_sampled({"traceparent": PARENT})
    assert not is_sampled({"traceparent": PARENT[:-2] + "00"})
    assert not is_sampled({"baggage": "k=v"})


def test_the_trace_id_is_the_second_field() -> None:
    assert trace_id_of({"traceparent": PARENT}) == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_id_of({}) is None
