"""The door's own description of itself."""

import json
from typing import Any

import jsonschema
import pytest

from deployments.gateway.http.openapi import POSTED, openapi
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import ask, chat, complete

pytestmark = pytest.mark.asyncio


def schema_of(name: str) -> dict[str, Any]:
    document = openapi()
    return {"$ref": f"#/components/schemas/{name}", "components": document["components"]}


async def test_the_document_is_served() -> None:
    answer = await ask(FakeService(), "GET", "/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(openapi()))


async def test_every_path_is_there() -> None:
    document = openapi()
    for path, item in document["paths"].items():
        [method] = item
        answer = await ask(
            FakeService(), method.upper(), path.replace("{name}", "tiny"), content=b"{}"
        )
        assert answer.status_code not in (404, 405), path
    assert set(POSTED) < set(document["paths"])


async def test_answers_and_errors_are_of_their_schemas() -> None:
    whole = await complete(FakeService(text_deltas("ok")))
    jsonschema.validate(whole.json(), schema_of("AnswerBody"))
    wrong = await chat(FakeService(), temperature="hot")
    assert wrong.status_code == 400
    jsonschema.validate(wrong.json(), schema_of("ErrorBody"))


async def test_every_reference_leads_somewhere() -> None:
    document = openapi()
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "$ref" in value:
                name = value["$ref"].removeprefix("#/components/schemas/")
                assert name in document["components"]["schemas"]
            pending += value.values()
        elif isinstance(value, list):
            pending += value
