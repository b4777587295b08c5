"""A section as a YAML document that explains itself and reads back as the same section."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from infra.errors import ConfigError
from infra.section import Section
from infra.strict_yaml import read_yaml

_WIDTH = 88
_STEP = "  "
# Taken for line breaks by YAML, or not allowed in it.
_TO_ESCAPE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PLAIN = re.compile(r"[A-Za-z/~.][A-Za-z0-9/~._-]*")


def render_section(section: Section) -> str:
    """YAML with each key's description above it, and `# default` where nothing was given.

    Of a list of sections only the first one is described.
    """
    return "\n".join(_lines(section, "", described=True)) + "\n"


def _lines(section: Section, indent: str, *, described: bool) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        if described and field.description:
            yield from _comment(field.description, indent)
        value = getattr(section, name)
        mark = "" if name in section.model_fields_set else "  # default"
        if isinstance(value, Section):
            yield f"{indent}{name}:{mark}"
            yield from _lines(value, indent + _STEP, described=described)
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            yield f"{indent}{name}:{mark}"
            yield from _items(value, indent + _STEP, described=described)
        else:
            plain = section.model_dump(mode="json", include={name})[name]
            yield f"{indent}{name}: {_value(plain)}{mark}"


def _items(sections: list[Section], indent: str, *, described: bool) -> Iterator[str]:
    for index, section in enumerate(sections):
        lines = list(_lines(section, indent + _STEP, described=described and index == 0))
        first_key = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
        yield from (line.removeprefix(_STEP) for line in lines[:first_key])
        yield f"{indent}- {lines[first_key].lstrip()}"
        yield from lines[first_key + 1 :]


def _comment(description: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(
        " ".join(description.split()),
        width=_WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _value(value: Any) -> str:
    """JSON, which is YAML too; simple text stands without quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and _reads_back(value):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _reads_back(value: str) -> bool:
    """False for words that YAML takes for something else: `no`, `null`, `.5`."""
    try:
        return bool(read_yaml(value, "value").data == value)
    except ConfigError:
        return False
