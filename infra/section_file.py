"""From a document to a section: every problem at once, each with its line and what to do."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from infra.errors import ConfigError
from infra.section import Section
from infra.strict_yaml import Document, KeyPath, format_path

SectionT = TypeVar("SectionT", bound=Section)

_MAX_SHOWN_CHARACTERS = 60
# Where pydantic puts a problem with a mapping's key, as against its value.
_OF_KEY = "[key]"


def parse_section(cls: type[SectionT], document: Document) -> SectionT:
    """The document as a section of this class.

    Types are taken strictly: the text `"8"` is no number.

    Raises:
        ConfigError: one line a problem, in the order of the file:
            `FILE:LINE: models[0].tensor_paralel_size: unknown key; did you mean
            tensor_parallel_size?`
    """
    try:
        return cls.model_validate_json(json.dumps(document.data, default=str), strict=True)
    except ValidationError as error:
        found = [_problem(cls, document, details) for details in error.errors()]
        lines = [text for _, text in sorted(found, key=lambda numbered: numbered[0])]
        raise ConfigError("\n".join(lines)) from None


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that the word was probably meant to be."""
    close = difflib.get_close_matches(word, list(candidates), n=1)
    return close[0] if close else None


def _problem(
    cls: type[Section], document: Document, details: Mapping[str, Any]
) -> tuple[int, str]:
    path: KeyPath = details["loc"]
    if path[-1:] == (_OF_KEY,):
        path = path[:-1]
    line = document.line_of(path)
    what = _describe(section_at(cls, path[:-1]), details)
    where = f"{document.source}:{line}" if line is not None else document.source
    return line or 0, ": ".join(part for part in (where, format_path(path), what) if part)


def section_at(cls: type[Section], path: KeyPath) -> type[Section] | None:
    """Class of the section that the path leads to; None where it leads elsewhere."""
    annotation: Any = cls
    for step in path:
        if isinstance(step, int):
            annotation = next(iter(get_args(annotation)), None)
        elif (section := _section_in(annotation)) and step in section.model_fields:
            annotation = section.model_fields[step].annotation
        else:
            return None
    return _section_in(annotation)


def _section_in(annotation: Any) -> type[Section] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _describe(parent: type[Section] | None, details: Mapping[str, Any]) -> str:
    kind, key = details["type"], str(details["loc"][-1]) if details["loc"] else ""
    if kind == "extra_forbidden":
        return _unknown_key(parent, key)
    if kind == "missing":
        return _missing(parent, key)
    context = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if wanted := _WANTED.get(kind):
        return f"must be {wanted(context)}, not {_shown(details['input'])}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, not {_shown(details['input'])}"


def _unknown_key(parent: type[Section] | None, key: str) -> str:
    keys = list(parent.model_fields) if parent else []
    if parent and (place := parent.place_elsewhere(key)):
        return f"unknown key; {place}"
    if close := nearest(key, keys):
        return f"unknown key; did you mean {close}?"
    known = f"the keys here are {', '.join(keys)}"
    hint = parent.unknown_key_hint if parent else ""
    return f"unknown key; {hint or known}"


def _missing(parent: type[Section] | None, key: str) -> str:
    description = (parent.model_fields[key].description if parent else None) or ""
    sentence = " ".join(description.split()).partition(". ")[0].rstrip(".")
    return (
        f"missing; it must be given ({sentence})" if sentence else "missing; it must be given"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= _MAX_SHOWN_CHARACTERS:
        return text
    return text[: _MAX_SHOWN_CHARACTERS - 3] + "..."


def _choice(context: Mapping[str, Any]) -> str:
    return f"one of {context['expected']}".replace("'", "").replace(" or ", ", ")


def _fixed(text: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: text


def _filled(template: str) -> Callable[[Mapping[str, Any]], str]:
    return template.format_map


# What a value must be, by pydantic's word for the error.
_WANTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": _fixed("a whole number"),
    "int_from_float": _fixed("a whole number"),
    "int_parsing": _fixed("a whole number"),
    "float_type": _fixed("a number"),
    "float_parsing": _fixed("a number"),
    "finite_number": _fixed("a finite number"),
    "bool_type": _fixed("true or false"),
    "bool_parsing": _fixed("true or false"),
    "string_type": _fixed("text (in quotes where it looks like something else)"),
    "path_type": _fixed("a path"),
    "literal_error": _choice,
    "list_type": _fixed("a list"),
    "dict_type": _fixed("a mapping of keys to values"),
    "model_type": _fixed("a mapping of keys to values"),
    "greater_than": _filled("more than {gt}"),
    "greater_than_equal": _filled("at least {ge}"),
    "less_than": _filled("less than {lt}"),
    "less_than_equal": _filled("at most {le}"),
    "string_pattern_mismatch": _filled("text of the form {pattern}"),
    "string_too_long": _filled("at most {max_length} characters"),
    "string_too_short": _filled("at least {min_length} characters"),
    "too_short": _filled("a list of at least {min_length}"),
    "too_long": _filled("a list of at most {max_length}"),
}
