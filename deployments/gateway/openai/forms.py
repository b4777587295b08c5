"""The ways a request can ask for a form of the output, brought to one.

OpenAI has `response_format`; vLLM adds `structured_outputs` and, before it,
`guided_json`, `guided_regex`, `guided_grammar`, `guided_choice`.
"""

from typing import Any

import msgspec

from deployments.gateway.schemas import schema_text
from deployments.types import StructuredOutput
from infra.errors import InvalidArgumentError


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named schema; it is enforced whether `strict` is set or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True
):
    """Any text."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_object", forbid_unknown_fields=True
):
    """Any JSON object."""


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that a schema describes."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's: at most one is set. A schema may be an object or JSON text."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None
    json_object: bool | None = None


def to_form(
    response_format: ResponseFormat | None,
    structured: StructuredOutputs | None,
    guided: StructuredOutputs,
) -> StructuredOutput | None:
    """The one form that is asked for, if any.

    Raises InvalidArgumentError where two are, or a choice has no options.
    """
    found = _from_response_format(response_format)
    if structured is not None:
        found |= _from_fields(structured, "structured_outputs.")
    found |= _from_fields(guided, "guided_")
    if len(found) > 1:
        first, second, *_ = found
        raise InvalidArgumentError(
            f"{first} and {second} both ask for a form; set one of them", param=second
        )
    return next(iter(found.values()), None)


def _from_response_format(given: ResponseFormat | None) -> dict[str, StructuredOutput]:
    match given:
        case JsonObjectFormat():
            return {"response_format": StructuredOutput(json_object=True)}
        case JsonSchemaFormat(json_schema):
            text = schema_text(json_schema.schema, "response_format")
            return {"response_format": StructuredOutput(json_schema=text)}
        case _:
            return {}


def _from_fields(given: StructuredOutputs, prefix: str) -> dict[str, StructuredOutput]:
    """Forms by the name of the field that asks for each."""
    found = {}
    if given.json is not None:
        param, schema = f"{prefix}json", given.json
        text = schema if isinstance(schema, str) else schema_text(schema, param)
        found[param] = StructuredOutput(json_schema=text)
    if given.regex is not None:
        found[f"{prefix}regex"] = StructuredOutput(regex=given.regex)
    if given.grammar is not None:
        found[f"{prefix}grammar"] = StructuredOutput(grammar=given.grammar)
    if given.choice is not None:
        field = f"{prefix}choice"
        if not given.choice:
            raise InvalidArgumentError(f"{field} is empty; give an option", param=field)
        found[field] = StructuredOutput(choice=tuple(given.choice))
    if given.json_object:
        found[f"{prefix}json_object"] = StructuredOutput(json_object=True)
    return found
