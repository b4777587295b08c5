"""Nulls in fields that this API does not know, inside of messages, tools and items.

OpenAI's own package writes all fields of its objects (`model_dump()`), those too that
it has and this API has not; a null asks for nothing. Where any key may stand, as in a
JSON schema, a null has a meaning and stays.
"""

from typing import Any

from msgspec import inspect


def without_unknown_nulls(value: Any, kind: inspect.Type) -> Any:
    """The JSON value without nulls of names that its type, `kind`, does not have."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if isinstance(value, list):
        items = next((k.item_type for k in kinds if isinstance(k, inspect.ListType)), None)
        return value if items is None else [without_unknown_nulls(v, items) for v in value]
    if isinstance(value, dict):
        structs = (k for k in kinds if isinstance(k, inspect.StructType))
        struct = next((s for s in structs if _is_tagged(value, s)), None)
        return value if struct is None else _cleaned(value, struct)
    return value


def _is_tagged(value: dict[str, Any], struct: inspect.StructType) -> bool:
    return struct.tag_field is None or value.get(struct.tag_field) == struct.tag


def _cleaned(value: dict[str, Any], struct: inspect.StructType) -> dict[str, Any]:
    name_to_kind = {field.encode_name: field.type for field in struct.fields}
    return {
        name: without_unknown_nulls(v, name_to_kind[name]) if name in name_to_kind else v
        for name, v in value.items()
        if v is not None or name in name_to_kind
    }
