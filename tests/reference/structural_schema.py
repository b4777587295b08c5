"""What an API server makes of an object of a custom resource: defaults, then a strict check.

A CustomResourceDefinition has an OpenAPI schema that is *structural*. Kubernetes drops fields
that the schema does not know; here they are an error, since whoever writes them means
something by them. Rules in CEL are not evaluated.

Source: "Extend the Kubernetes API with CustomResourceDefinitions" of the Kubernetes
documentation: pruning, defaulting, nullable, int-or-string, list-map keys.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]

_KEPT = {
    "type", "enum", "pattern", "format", "required", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
    "multipleOf", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip


class CustomResources:
    """The definitions in a folder."""

    def __init__(self, folder: Path) -> None:
        self._schemas: dict[tuple[str, str], Schema] = {}
        for path in sorted(folder.glob("*.yaml")):
            definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
            for version in definition["versions"]:
                key = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
                self._schemas[key] = version["schema"]["openAPIV3Schema"]

    def knows(self, made: dict[str, Any]) -> bool:
        """Whether it is of a kind that is defined here."""
        return (made["apiVersion"], made["kind"]) in self._schemas

    def errors(self, made: dict[str, Any]) -> list[str]:
        """What is wrong with it, each with its place."""
        schema = self._schemas[made["apiVersion"], made["kind"]]
        whole = with_defaults(made, schema)
        strict = strict_schema(schema)
        # These three are the same for all kinds, and a CRD leaves them open.
        for key in ("apiVersion", "kind"):
            strict["properties"][key] = {"type": "string"}
        strict["properties"]["metadata"] = {"type": "object"}
        validator = jsonschema.Draft202012Validator(strict)
        found = [
            f"{error.json_path}: {error.message}" for error in validator.iter_errors(whole)
        ]
        return found + list(repeated_keys(whole, schema, "$"))


def strict_schema(schema: Schema) -> Schema:
    """As JSON Schema that refuses fields which are not named."""
    strict = {key: value for key, value in schema.items() if key in _KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if "properties" in schema:
        properties = schema["properties"].items()
        strict["properties"] = {name: strict_schema(each) for name, each in properties}
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = strict_schema(schema["additionalProperties"])
    elif schema.get("type") == "object" and "properties" in schema:
        strict["additionalProperties"] = bool(
            schema.get("x-kubernetes-preserve-unknown-fields")
        )
    if "items" in schema:
        strict["items"] = strict_schema(schema["items"])
    for word in ("anyOf", "allOf", "oneOf"):
        if word in schema:
            # Of these only what restricts values: fields are named outside of them.
            strict[word] = [_restriction(each) for each in schema[word]]
    if schema.get("nullable") and isinstance(strict.get("type"), str):
        strict["type"] = [strict["type"], "null"]
    return strict


def _restriction(schema: Schema) -> Schema:
    found = {key: value for key, value in schema.items() if key in _KEPT or key == "not"}
    if "properties" in schema:
        properties = schema["properties"].items()
        found["properties"] = {name: _restriction(each) for name, each in properties}
    return found


def with_defaults(value: Any, schema: Schema) -> Any:
    """The value as it is stored: what is null and may not be is left out, and defaults are
    there."""
    if isinstance(value, dict):
        named = schema.get("properties", {})
        others = schema.get("additionalProperties")
        other = others if isinstance(others, dict) else {}
        made = {
            key: with_defaults(each, named.get(key, other))
            for key, each in value.items()
            if each is not None or named.get(key, other).get("nullable")
        }
        for key, each in named.items():
            if key not in made and "default" in each:
                made[key] = with_defaults(each["default"], each)
        return made
    if isinstance(value, list):
        return [with_defaults(each, schema.get("items", {})) for each in value]
    return value


def repeated_keys(value: Any, schema: Schema, place: str) -> Iterator[str]:
    """Items of a list that is a map, which have the same key."""
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        other = others if isinstance(others, dict) else {}
        for key, each in value.items():
            yield from repeated_keys(each, named.get(key, other), f"{place}.{key}")
    if isinstance(value, list):
        items = schema.get("items", {})
        for number, each in enumerate(value):
            yield from repeated_keys(each, items, f"{place}[{number}]")
        if schema.get("x-kubernetes-list-type") == "map":
            keys = schema["x-kubernetes-list-map-keys"]
            seen = [tuple(each.get(key) for key in keys) for each in value]
            for each in sorted({key for key in seen if seen.count(key) > 1}, key=str):
                yield f"{place}: more than one item is {dict(zip(keys, each, strict=True))}"
