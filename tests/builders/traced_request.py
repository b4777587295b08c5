"""A request that its client traces, and what comes of it at a receiver."""

import time
from typing import Any

import httpx2

from tests.builders.otlp_receiver import OtlpReceiver, ReceivedSpan

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CLIENT_SPAN}-01"


def ask_traced(http_url: str, model: str, max_tokens: int) -> tuple[dict[str, Any], str]:
    """The answer to a chat, and its header `traceresponse`."""
    answer = httpx2.post(
        f"{http_url}/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": max_tokens,
        },
        headers={"traceparent": TRACEPARENT, "x-request-id": "traced"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.headers["traceresponse"]


def parts_of_steps(receiver: OtlpReceiver, model: str, name: str) -> list[ReceivedSpan]:
    """The spans of this name below steps of the traced request, once they have come.

    Exporters send what they have every five seconds.
    """
    deadline = time.monotonic() + 30
    while True:
        engines = [s for s in receiver.spans if s.name == f"text_completion {model}"]
        steps = {span.span_id: span for span in receiver.spans if span.name == "step"}
        found = [span for span in receiver.spans if span.name == name]
        if engines and found and all(part.parent_id in steps for part in found):
            break
        assert time.monotonic() < deadline, [span.name for span in receiver.spans]
        time.sleep(0.2)
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
    assert [{step.parent_id for step in steps.values()}] == [{e.span_id} for e in engines]
    for part in found:
        step = steps[part.parent_id]
        assert step.started_ns <= part.started_ns <= part.ended_ns <= step.ended_ns
    return found
