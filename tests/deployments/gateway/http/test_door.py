"""Paths, headers, bodies and failures, request by request."""

import json
import logging
import math

import msgspec
import pytest

from deployments.types import Delta, ModelCard, TokenLogprob, TokenLogprobs
from infra.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    NoReplicaError,
    UnknownMethodError,
)
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import (
    CHAT,
    COMPLETIONS,
    ask,
    chat,
    complete,
    events,
    post,
)

pytestmark = pytest.mark.asyncio

OK = text_deltas("ok")


@pytest.mark.parametrize("path", ["/health", "/-/healthz"])
async def test_the_door_is_healthy_while_one_model_has_a_ready_replica(path: str) -> None:
    cold = model_card("cold", num_ready_replicas=0)
    ready = await ask(FakeService(cards=[cold, model_card()]), "GET", path)
    loading = await ask(FakeService(cards=[cold]), "GET", path)
    assert (ready.status_code, ready.text) == (200, "success")
    assert loading.status_code == 503
    assert "success" not in loading.text


async def test_an_unknown_path_and_a_wrong_method_have_the_same_body_as_all_errors() -> None:
    missing = await ask(FakeService(), "GET", "/v2/nothing")
    wrong = await ask(FakeService(), "GET", CHAT)
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["error"]["code"] == "unknown_path"
    assert wrong.json()["error"] == {
        "message": "/v1/chat/completions does not take GET",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }
    assert wrong.headers["allow"] == "POST"
    assert missing.headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"prompt": NaN}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"user": 1, "prompt": "\\ud800"}',
        b'{"prompt": ' + b"[" * 100_000,
        b'{"guided_json": ' + b'{"a":' * 100_000,
        b'{"user": ' + b"[" * 100_000,
        b'{"echo": ' + b"[" * 100_000 + b"]" * 100_000 + b', "prompt": "a"}',
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(body: bytes) -> None:
    service = FakeService(OK)
    response = await ask(service, "POST", COMPLETIONS, content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_argument"
    assert service.calls == []


async def test_a_long_name_of_an_unknown_field_is_not_given_back_whole() -> None:
    response = await complete(FakeService(OK), **{"x" * 100_000: 1})
    assert response.status_code == 400
    assert len(response.content) < 1000


async def test_a_body_over_the_limit_is_refused() -> None:
    service = FakeService(OK)
    response = await post(service, COMPLETIONS, {"prompt": "a" * 2000}, max_message_bytes=1024)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert service.calls == []


async def test_the_request_s_id_goes_in_and_out() -> None:
    service = FakeService(OK)
    headers = {"x-request-id": "abc-1"}
    response = await post(service, COMPLETIONS, {"prompt": "a"}, headers=headers)
    assert response.headers["x-request-id"] == "abc-1"
    assert response.json()["id"] == "cmpl-abc-1"
    assert service.last_call.request_id == "abc-1"


async def test_a_request_without_an_id_gets_one() -> None:
    service = FakeService(OK)
    first, second = await complete(service), await complete(service)
    assert first.headers["x-request-id"] == service.calls[0].request_id
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_an_id_with_spaces_is_refused_and_replaced() -> None:
    headers = {"x-request-id": "a b"}
    response = await post(FakeService(), CHAT, {}, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-id"
    assert response.headers["x-request-id"] != "a b"


async def test_a_deadline_comes_as_a_header_in_seconds() -> None:
    service = FakeService(OK)
    headers = {"x-request-timeout-s": "2.5"}
    await post(service, COMPLETIONS, {"prompt": "a"}, headers=headers)
    await complete(service)
    assert [call.timeout_s for call in service.calls] == [2.5, None]


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf", ""])
async def test_a_deadline_that_is_no_time_is_refused(given: str) -> None:
    headers = {"x-request-timeout-s": given}
    response = await post(FakeService(), COMPLETIONS, {"prompt": "a"}, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-timeout-s"


@pytest.mark.parametrize(
    ("error", "status", "type_", "retry_after"),
    [
        (InvalidArgumentError("m", param="n"), 400, "invalid_request_error", None),
        (UnknownMethodError("m"), 400, "invalid_request_error", None),
        (CapacityError("m"), 429, "rate_limit_exceeded", "1"),
        (NoReplicaError("m"), 503, "server_error", "1"),
        (EngineError("m"), 503, "server_error", "1"),
        (DeadlineError("m"), 504, "timeout", None),
    ],
)
async def test_every_failure_has_its_row_of_the_table(
    error: Exception, status: int, type_: str, retry_after: str | None
) -> None:
    response = await chat(FakeService([error]))
    assert response.status_code == status
    assert response.json()["error"] == {
        "message": "m",
        "type": type_,
        "param": getattr(error, "param", None),
        "code": getattr(error, "kind", None),
    }
    assert response.headers.get("retry-after") == retry_after


@pytest.mark.parametrize("error", [KeyError("secret"), ConfigError("secret")])
async def test_our_own_failure_is_logged_under_the_id_and_tells_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = await complete(FakeService([error]))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal"
    assert response.headers["x-request-id"] in caplog.text
    assert "secret" in caplog.text


async def test_a_failing_catalogue_answers_in_the_same_way() -> None:
    class Broken(FakeService):
        def models(self) -> list[ModelCard]:
            raise KeyError("secret")

    response = await ask(Broken(), "GET", "/v1/models", headers={"x-request-id": "r"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert response.headers["x-request-id"] == "r"
    assert "secret" not in response.text


async def test_a_stream_is_events_that_end_with_done() -> None:
    response = await complete(FakeService(text_deltas("a", "b")), stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, second, done = events(response)
    request_id = response.headers["x-request-id"]
    assert first == {
        "id": f"cmpl-{request_id}",
        "object": "text_completion",
        "created": first["created"],
        "model": "tiny",
        "choices": [{"index": 0, "text": "a", "finish_reason": None, "logprobs": None}],
    }
    assert second["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


async def test_chunks_have_a_null_usage_where_the_last_one_has_it() -> None:
    options = {"include_usage": True}
    response = await chat(FakeService(text_deltas("a")), stream=True, stream_options=options)
    chunk, last, done = events(response)
    assert chunk["usage"] is None
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert done == "[DONE]"


async def test_each_chunk_has_the_counts_so_far_where_that_is_asked_for() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    service = FakeService(text_deltas("a", "bc"))
    *chunks, done = events(await chat(service, stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 3, 3]
    assert [len(chunk["choices"]) for chunk in chunks] == [1, 1, 0]
    assert done == "[DONE]"


async def test_a_failure_in_a_stream_is_its_last_event() -> None:
    response = await chat(FakeService([text_deltas("a", "b")[0], KeyError("x")]), stream=True)
    assert response.status_code == 200
    chunk, failure = events(response)
    assert chunk["choices"][0]["delta"]["content"] == "a"
    assert failure["error"]["code"] == "internal"


async def test_an_output_aborted_in_the_cluster_is_no_answer() -> None:
    aborted = Delta(0, "half", [1], finish_reason="abort")
    whole = await chat(FakeService([aborted]))
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_failed")
    streamed = events(await chat(FakeService([OK[0], aborted]), stream=True))
    assert streamed[-1]["error"]["code"] == "engine_failed"


async def test_what_stopped_an_output_is_told_where_it_was_asked_for() -> None:
    stopped = msgspec.structs.replace(OK[0], stop_reason="\n")
    response = await complete(FakeService([stopped]))
    assert response.json()["choices"][0]["stop_reason"] == "\n"
    assert "stop_reason" not in (await complete(FakeService(OK))).json()["choices"][0]


async def test_logprobs_stay_valid_json_for_impossible_and_partial_tokens() -> None:
    never = TokenLogprob(1, -math.inf, "\ufffd", 9)
    likely = TokenLogprob(2, -0.1, "\ufffd", 1)
    delta = Delta(0, "", [1], "stop", logprobs=(TokenLogprobs(never, (likely,)),))
    service = FakeService([delta])
    in_chat = (await chat(service, logprobs=True)).json()["choices"][0]["logprobs"]
    assert in_chat["content"] == [
        {
            "token": "\ufffd",
            "logprob": -9999.0,
            "bytes": None,
            "top_logprobs": [{"token": "\ufffd", "logprob": -0.1, "bytes": None}],
        }
    ]
    completed = (await complete(service, logprobs=1)).json()["choices"][0]["logprobs"]
    assert completed["top_logprobs"] == [{"\ufffd": -0.1}]


async def test_a_request_may_name_no_model() -> None:
    service = FakeService(OK)
    response = await complete(service)
    assert (service.last_call.model, response.json()["model"]) == ("", "tiny")


async def test_the_list_of_models_is_openai_s() -> None:
    response = await ask(FakeService(), "GET", "/v1/models")
    assert json.loads(response.content) == {
        "object": "list",
        "data": [
            {
                "id": "tiny",
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "coterie",
                "root": "builtin-tiny",
                "parent": None,
                "max_model_len": 2048,
            }
        ],
    }
