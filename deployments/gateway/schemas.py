"""JSON schemas that clients send, of a tool's arguments or of an output."""

from collections.abc import Iterable
from typing import Any

import msgspec

from deployments.gateway.checks import MAX_SCHEMA_DEPTH
from infra.errors import InvalidArgumentError, field

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


def schema_text(schema: dict[str, Any], param: str) -> str:
    """The schema as JSON text. Raises InvalidArgumentError, which names `param`, where it
    is nested too deeply.
    """
    check_depth(schema, param)
    return msgspec.json.encode(schema).decode()


def num_bytes(value: Any, param: str) -> int:
    """Length of the value's JSON. Raises InvalidArgumentError where it is nested too deeply."""
    try:
        return len(msgspec.json.encode(value))
    except RecursionError as error:
        raise _too_deep(param) from error


def check_depth(schema: Any, param: str) -> None:
    """At most `MAX_SCHEMA_DEPTH` levels. Raises InvalidArgumentError.

    What is taken can be compared, rendered and encoded by code that recurses, wherever
    it stands then.
    """
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise _too_deep(param)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(param: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a JSON schema in {field(param)} is nested too deeply; at most {MAX_SCHEMA_DEPTH} "
        "levels are taken",
        param=param,
    )
