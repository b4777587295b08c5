"""KServe over HTTP: health, metadata, generate and generate_stream."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from deployments.gateway.kserve.tensors import INPUT_TYPES, OUTPUT_TYPES
from deployments.types import Delta, Sampling
from infra.errors import CapacityError, EngineError
from tests.builders.fake_service import FakeService, model_card, text_deltas
from tests.deployments.gateway.http.asking import ask, post
from tests.deployments.gateway.http.server import serving

pytestmark = pytest.mark.asyncio

GENERATE = "/v2/models/tiny/generate"
STREAM = "/v2/models/tiny/generate_stream"


def events_of(response: httpx2.Response) -> list[Any]:
    """The JSON of each event."""
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@pytest.fixture
def service() -> FakeService:
    return FakeService(text_deltas("Hel", "lo"))


async def test_generate_takes_inputs_and_sampling_parameters_side_by_side(
    service: FakeService,
) -> None:
    body = {
        "id": "r",
        "text_input": "abc",
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "parameters": {"stream": False, "temperature": 0, "return_num_output_tokens": True},
    }
    response = await post(service, GENERATE, body)
    assert (response.status_code, response.json()) == (
        200,
        {
            "id": "r",
            "model_name": "tiny",
            "model_version": "1",
            "text_output": "Hello",
            "finish_reason": "stop",
            "num_output_tokens": 5,
        },
    )
    asked = service.last_call
    assert (asked.model, asked.prompt, asked.request_id) == ("tiny", "abc", "r")
    assert asked.sampling == Sampling(temperature=0, max_tokens=16)


async def test_several_outputs_are_a_list(service: FakeService) -> None:
    service.script = [Delta(1, "b", [98], "stop"), Delta(0, "a", [97], "stop")]
    response = await post(service, GENERATE, {"text_input": "x", "n": 2})
    assert response.json()["text_output"] == ["xa", "xb"]


async def test_generate_stream_gives_one_event_a_delta(service: FakeService) -> None:
    body = {"text_input": "abc", "stream": True, "parameters": {"max_tokens": 3}}
    response = await post(service, STREAM, body)
    assert response.headers["content-type"].startswith("text/event-stream")
    head = {"model_name": "tiny", "model_version": "1"}
    assert events_of(response) == [
        {**head, "text_output": "Hel"},
        {**head, "text_output": "lo"},
    ]


async def test_generate_stream_answers_once_where_stream_is_not_set(
    service: FakeService,
) -> None:
    response = await post(service, STREAM, {"text_input": "abc"})
    assert [event["text_output"] for event in events_of(response)] == ["abcHello"]


async def test_a_failure_in_a_stream_is_its_last_event(service: FakeService) -> None:
    service.script = [Delta(0, "a", [97]), EngineError("the engine failed")]
    response = await post(service, STREAM, {"text_input": "abc", "stream": True})
    first, last = events_of(response)
    assert (response.status_code, first["text_output"]) == (200, "a")
    assert last == {"error": "the engine failed"}


async def test_a_client_that_leaves_a_stream_ends_its_generation(
    service: FakeService,
) -> None:
    service.script = [Delta(0, "a", [97]), asyncio.Event()]
    body = {"text_input": "abc", "stream": True}
    async with serving(service) as address, httpx2.AsyncClient() as client:
        async with client.stream("POST", address + STREAM, json=body) as response:
            await anext(response.aiter_lines())
        await service.wait_aborted()
    assert service.aborted_ids == [service.last_call.request_id]


async def test_a_refusal_has_the_status_of_its_kind_and_its_message(
    service: FakeService,
) -> None:
    service.refusal = CapacityError("no room")
    response = await post(service, GENERATE, {"text_input": "abc"})
    assert (response.status_code, response.json()) == (429, {"error": "no room"})
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "the body is not a JSON object"),
        ({}, "the input text_input is missing"),
        ({"text_input": 1}, "text_input must be a string"),
        ({"text_input": "a", "stream": 1}, "stream must be true or false"),
        ({"text_input": "a", "stream": True}, "generate gives one response"),
        ({"text_input": "a", "parameters": 1}, "parameters an object"),
        ({"text_input": "a", "temprature": 1}, "did you mean temperature"),
        ({"text_input": "a", "sampling_parameters": 1}, "must be an object, or its JSON"),
        ({"text_input": "a", "sampling_parameters": {"n": {}}}, "cannot be read"),
        ({"text_input": "a"} | {f"p{n}": 1 for n in range(65)}, "over 64 entries"),
        ({"text_input": "a", "parameters": {"output_kind": 1}}, "leave out output_kind"),
    ],
)
async def test_a_wrong_body_is_refused(service: FakeService, body: Any, words: str) -> None:
    response = await post(service, GENERATE, body)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert service.calls == []


async def test_a_version_may_be_named(service: FakeService) -> None:
    body = {"text_input": ["abc"], "exclude_input_in_output": True}
    response = await post(service, "/v2/models/tiny/versions/1/generate", body)
    assert response.json()["text_output"] == "Hello"
    response = await post(service, "/v2/models/tiny/versions/2/generate", body)
    assert response.status_code == 404


async def test_models_may_have_slashes_in_their_names() -> None:
    service = FakeService(text_deltas("a"), cards=[model_card("org/tiny")])
    response = await post(service, "/v2/models/org/tiny/generate", {"text_input": "abc"})
    assert response.json()["model_name"] == "org/tiny"


async def test_metadata_names_the_tensors(service: FakeService) -> None:
    found = (await ask(service, "GET", "/v2/models/tiny")).json()
    assert found["name"] == "tiny"
    assert [t["name"] for t in found["inputs"]] == [*INPUT_TYPES]
    assert [t["name"] for t in found["outputs"]] == [*OUTPUT_TYPES]
    assert (await ask(service, "GET", "/v2")).json()["name"] == "coterie"
    assert (await ask(service, "GET", "/v2/models/none")).status_code == 404


async def test_a_model_that_embeds_names_no_tensor_that_it_would_refuse() -> None:
    service = FakeService(cards=[model_card(task="embed")])
    found = (await ask(service, "GET", "/v2/models/tiny")).json()
    assert (found["name"], found["inputs"], found["outputs"]) == ("tiny", [], [])


@pytest.mark.parametrize(("num_ready_replicas", "status"), [(1, 200), (0, 503)])
async def test_ready_is_told_by_status(num_ready_replicas: int, status: int) -> None:
    service = FakeService(cards=[model_card(num_ready_replicas=num_ready_replicas)])
    for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
        assert (await ask(service, "GET", path)).status_code == status
    assert (await ask(service, "GET", "/v2/health/live")).status_code == 200
    assert (await ask(service, "GET", "/v2/models/none/ready")).status_code == 404


@pytest.mark.parametrize("given", [{"temperature": 0, "max_tokens": 3}, '{"max_tokens": 3}'])
async def test_sampling_parameters_are_an_object_or_its_json(
    service: FakeService, given: Any
) -> None:
    body = {"text_input": "abc", "sampling_parameters": given}
    assert (await post(service, GENERATE, body)).status_code == 200
    assert service.last_call.sampling.max_tokens == 3


async def test_a_priority_is_taken_from_the_parameters(service: FakeService) -> None:
    body = {"text_input": "abc", "parameters": {"priority": 3}}
    assert (await post(service, GENERATE, body)).status_code == 200
    assert service.last_call.options.priority == "low"
