"""`/v1/embeddings`, mostly by the unmodified client."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from openai import APIStatusError, BadRequestError

from infra.errors import CapacityError, PromptTooLongError
from tests.builders.fake_service import FakeService, model_card
from tests.deployments.gateway.http.server import openai_client, serving


def embedding_service(*script: Any, **options: Any) -> FakeService:
    return FakeService(script, cards=[model_card(task="embed")], **options)


async def post(address: str, body: Any) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}/v1/embeddings", json=body) as response,
    ):
        found: dict[str, Any] = json.loads(await response.read())
        return found


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("abc", [3]),
        (["a", "bcd"], [1, 3]),
        ([5, 6], [2]),
        ([[5, 6], [7]], [2, 1]),
    ],
)
async def test_each_input_gets_its_vector_in_order(given: Any, lengths: list[int]) -> None:
    service = embedding_service()
    async with openai_client(service) as client:
        answer = await client.embeddings.create(model="tiny", input=given, user="me")
    assert [data.embedding for data in answer.data] == [[n, 1, 1] for n in lengths]
    assert [data.index for data in answer.data] == list(range(len(lengths)))
    assert (answer.object, answer.data[0].object, answer.model) == ("list", "embedding", "tiny")
    num_tokens = sum(lengths)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (num_tokens, num_tokens)
    assert all(not call.stream for call in service.calls)


async def test_vectors_come_as_numbers_or_as_base64() -> None:
    async with serving(embedding_service()) as address:
        plain = await post(address, {"model": "tiny", "input": "ab"})
        floats = await post(address, {"input": "ab", "encoding_format": "float"})
        base64 = await post(address, {"input": "ab", "encoding_format": "base64"})
    assert plain == floats
    assert floats["data"][0]["embedding"] == [2.0, 1.0, 1.0]
    assert base64["data"][0]["embedding"] == "AAAAQAAAgD8AAIA/"


async def test_dimensions_go_to_the_model() -> None:
    service = embedding_service()
    async with openai_client(service) as client:
        answer = await client.embeddings.create(model="tiny", input="ab", dimensions=2)
    assert answer.data[0].embedding == [2.0, 1.0]
    pooling = service.last_call.pooling
    assert pooling is not None
    assert pooling.dimensions == 2


async def test_many_inputs_come_back_in_their_order() -> None:
    texts = ["x" * (i % 7 + 1) for i in range(200)]
    async with openai_client(embedding_service()) as client:
        answer = await client.embeddings.create(model="tiny", input=texts)
    assert [data.embedding[0] for data in answer.data] == [len(text) for text in texts]


async def test_leaving_aborts_all_inputs() -> None:
    service = embedding_service(asyncio.Event())
    async with openai_client(service) as client:
        task = asyncio.create_task(client.embeddings.create(model="tiny", input=["a"] * 40))
        while not service.open_ids:
            await asyncio.sleep(0.001)
        num_open = len(service.open_ids)
        task.cancel()
        while service.open_ids:
            await asyncio.sleep(0.001)
    assert 1 < num_open == len(service.aborted_ids) <= 40


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "is empty"),
        ({"input": ""}, "input", "is empty"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": ["a", 1]}, "input", "not of both"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "int8"),
        ({"input": "a", "dimensions": "2"}, "dimensions", "expected int"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "never cut"),
        ({"input": "a", "dimension": 3}, "dimension", "did you mean dimensions"),
        ({"input": "a", "normalize": False}, "normalize", "leave out"),
    ],
)
async def test_a_wrong_field_is_named(body: dict[str, Any], param: str, words: str) -> None:
    async with serving(embedding_service()) as address:
        error = (await post(address, {"model": "tiny"} | body))["error"]
    assert (error["code"], error["param"]) == ("invalid_argument", param)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(error["message"])


async def test_a_model_that_generates_does_not_embed() -> None:
    async with openai_client(FakeService()) as client:
        with pytest.raises(BadRequestError) as caught:
            await client.embeddings.create(model="tiny", input="a")
    assert caught.value.code == "unknown_method"


@pytest.mark.parametrize(
    ("error", "status"), [(CapacityError("full"), 429), (PromptTooLongError("long"), 400)]
)
async def test_one_input_that_fails_fails_the_request(error: Exception, status: int) -> None:
    async with openai_client(embedding_service(error)) as client:
        with pytest.raises(APIStatusError) as caught:
            await client.embeddings.create(model="tiny", input=["a", "b"])
    assert caught.value.status_code == status
