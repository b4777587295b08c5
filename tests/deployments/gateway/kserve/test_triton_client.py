"""The unmodified `tritonclient.grpc` against the KServe door."""

import asyncio
import json
import sys
from typing import Any

import msgspec
import pytest

from deployments.gateway.kserve.tensors import INPUT_TYPES, OUTPUT_TYPES
from deployments.types import Delta, Sampling, TokenLogprob, TokenLogprobs
from tests.builders.fake_service import FakeService, text_deltas
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.asyncio


async def call(name: str, address: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.deployments.gateway.kserve.triton_calls"),
        *(name, address),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_infer_gives_every_output_that_was_asked_for(
    service: FakeService, address: str
) -> None:
    chosen = TokenLogprob(72, -0.5, "H", 1)
    other = TokenLogprob(74, -1.5, "J", 2)
    service.script = [
        Delta(0, "H", [72], "length", logprobs=(TokenLogprobs(chosen, (chosen, other)),))
    ]
    found = await call("infer", address)
    logprobs = json.loads(found.pop("logprobs")[0])
    assert logprobs == [
        {
            "72": {"logprob": -0.5, "rank": 1, "decoded_token": "H"},
            "74": {"logprob": -1.5, "rank": 2, "decoded_token": "J"},
        }
    ]
    assert found == {
        "id": "r",
        "model": "tiny",
        "final": True,
        "text_output": ["H"],
        "finish_reason": ["length"],
        "cumulative_logprob": [-0.5],
        "num_input_tokens": [3],
        "num_output_tokens": [1],
    }
    asked = service.last_call
    assert (asked.prompt, asked.stream, asked.request_id) == ("abc", False, "r")
    assert asked.sampling == Sampling(temperature=0, max_tokens=5, logprobs=0)


async def test_server_and_model_say_what_they_are(address: str) -> None:
    assert await call("ask_about", address) == {
        "live": True,
        "ready": True,
        "model": True,
        "other": False,
        "server": "coterie",
        "versions": ["1"],
        "inputs": [*INPUT_TYPES],
        "outputs": [*OUTPUT_TYPES],
    }


async def test_infer_refuses_to_stream(address: str) -> None:
    status, message = await call("refused", address)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert (
        message == "ModelInfer gives one response; set stream to false or use ModelStreamInfer"
    )


async def test_requests_of_one_stream_are_answered_in_order_and_fail_alone(
    service: FakeService, address: str
) -> None:
    found = await call("stream", address)
    errors = [answer for answer in found if "error" in answer]
    assert errors == [
        {"error": "sampling_parameters has no parameter temprature; did you mean temperature?"}
    ]
    for request_id in ("a", "c"):
        assert [answer for answer in found if answer.get("id") == request_id] == [
            {"id": request_id, "model": "tiny", "final": False, "text_output": ["Hel"]},
            {"id": request_id, "model": "tiny", "final": True, "text_output": ["lo"]},
        ]
    assert service.aborted_ids == []


async def test_leaving_a_stream_aborts_its_open_requests(
    service: FakeService, address: str
) -> None:
    first = msgspec.structs.replace(text_deltas("Hel")[0], finish_reason=None)
    service.script = [first, asyncio.Event()]
    assert (await call("leave", address))["text_output"] == ["Hel"]
    await service.wait_aborted()
    assert len(service.aborted_ids) == 1


async def test_the_asyncio_client_infers_and_streams(address: str) -> None:
    found = await call("aio", address)
    assert found["whole"]["text_output"] == ["abcHello"]
    assert found["pieces"] == [
        {
            "id": "s",
            "model": "tiny",
            "final": False,
            "text_output": ["Hel"],
            "num_output_tokens": [3],
        },
        {
            "id": "s",
            "model": "tiny",
            "final": True,
            "text_output": ["lo"],
            "num_output_tokens": [2],
        },
    ]
