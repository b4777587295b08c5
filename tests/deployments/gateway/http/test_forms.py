"""The ways to ask for a form of the output."""

from typing import Any

import pytest

from deployments.types import StructuredOutput
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import COMPLETIONS, ask, refusal_of, sampling_of

pytestmark = pytest.mark.asyncio

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
SCHEMA_TEXT = '{"type":"object","properties":{"b":{},"a":{}}}'
both = pytest.mark.parametrize("api", ["chat", "completions"])


@both
@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutput(json_object=True)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            StructuredOutput(json_schema=SCHEMA_TEXT),
        ),
        ({"guided_json": SCHEMA}, StructuredOutput(json_schema=SCHEMA_TEXT)),
        ({"guided_json": "{}"}, StructuredOutput(json_schema="{}")),
        ({"guided_regex": "a+"}, StructuredOutput(regex="a+")),
        ({"guided_grammar": 'root ::= "a"'}, StructuredOutput(grammar='root ::= "a"')),
        ({"guided_choice": ["a", "b"]}, StructuredOutput(choice=("a", "b"))),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutput(regex="a+")),
        ({"structured_outputs": {"choice": ["a"]}}, StructuredOutput(choice=("a",))),
        ({"structured_outputs": {}}, None),
    ],
)
async def test_every_way_to_ask_for_a_form_means_that_form(
    api: str, fields: dict[str, Any], form: StructuredOutput | None
) -> None:
    assert (await sampling_of(api, **fields)).structured_output == form


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "guided_regex",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {"rgx": "a"}}, "structured_outputs.rgx"),
    ],
)
async def test_a_form_that_is_wrong_or_one_of_two_is_named(
    fields: dict[str, Any], expected: str
) -> None:
    param, _ = await refusal_of("completions", **fields)
    assert param == expected


async def test_no_depth_of_a_schema_is_a_failure_of_ours() -> None:
    statuses = set()
    for depth in (200, *range(900, 1010)):
        schema = b'{"a":' * depth + b"{}" + b"}" * depth
        body = b'{"prompt": "a", "guided_json": ' + schema + b"}"
        response = await ask(FakeService(text_deltas("ok")), "POST", COMPLETIONS, content=body)
        statuses.add(response.status_code)
    assert statuses == {200, 400}
