"""Sections from files: every problem, where it is and what to do about it."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import AfterValidator, Field, model_validator

from infra.errors import ConfigError
from infra.section import Section
from infra.section_file import parse_section
from infra.strict_yaml import read_yaml


class Inner(Section):
    unknown_key_hint: ClassVar[str] = "look elsewhere"

    size: Annotated[int, Field(ge=1, le=8)]
    """How large it is. Not needed to know more."""

    share: Annotated[float, Field(gt=0)] = 0.5
    kind: Literal["one", "two"] = "one"
    name: Annotated[str, Field(pattern="^[a-z]+$", max_length=3)] = "a"

    @model_validator(mode="after")
    def _size_fits_name(self) -> "Inner":
        if len(self.name) > self.size:
            raise ValueError("name is longer than size; shorten it")
        return self


def lower(key: str) -> str:
    if not key.islower():
        raise ValueError("write it in lower case")
    return key


class Outer(Section):
    inner: Inner | None = None
    many: list[Inner] = []
    flag: bool = False
    free: dict[str, Any] = {}
    limits: dict[Annotated[str, AfterValidator(lower)], int] = {}


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_section(Outer, read_yaml(text, "f"))
    return refused.value.message.splitlines()


def test_a_document_that_holds_becomes_the_section() -> None:
    section = parse_section(Outer, read_yaml("inner: {size: 2, share: 1}\nflag: yes", "f"))
    assert section == Outer(inner=Inner(size=2, share=1.0), flag=True)


def test_problems_are_all_told_in_the_order_of_the_file() -> None:
    text = "flag: 1\nmany:\n  - size: 0\n  - size: 1\n    sise: 2\ninner:\n  share: 1\n"
    assert problems(text) == [
        "f:1: flag: must be true or false, not 1",
        "f:3: many[0].size: must be at least 1, not 0",
        "f:5: many[1].sise: unknown key; did you mean size?",
        "f:6: inner.size: missing; it must be given (How large it is)",
    ]


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ("size: 9", "size: must be at most 8, not 9"),
        ("size: '2'", 'size: must be a whole number, not "2"'),
        ("size: true", "size: must be a whole number, not true"),
        ("size: 1.5", "size: must be a whole number, not 1.5"),
        ("size: 2, share: 0", "share: must be more than 0.0, not 0"),
        ("size: 2, share: half", 'share: must be a number, not "half"'),
        ("size: 2, kind: three", 'kind: must be one of one, two, not "three"'),
        ("size: 2, name: A", 'name: must be text of the form ^[a-z]+$, not "A"'),
        ("size: 2, name: abcd", 'name: must be at most 3 characters, not "abcd"'),
        ("size: 2, zzz: 1", "zzz: unknown key; look elsewhere"),
    ],
)
def test_a_problem_is_told_in_plain_words(inner: str, problem: str) -> None:
    assert problems(f"inner: {{{inner}}}") == [f"f:1: inner.{problem}"]


def test_a_number_for_text_is_told_how_to_write_it() -> None:
    assert problems("inner: {size: 2, name: 5}") == [
        "f:1: inner.name: must be text (in quotes where it looks like something else), not 5"
    ]


def test_what_a_section_says_of_itself_is_told_as_it_stands() -> None:
    assert problems("inner: {size: 1, name: abc}") == [
        "f:1: inner: name is longer than size; shorten it"
    ]


def test_a_key_and_a_value_of_a_mapping_are_told_each_in_its_line() -> None:
    assert problems("limits:\n  ok: 1\n  Big: 2\n  small: x\n") == [
        "f:3: limits.Big: write it in lower case",
        'f:4: limits.small: must be a whole number, not "x"',
    ]


def test_an_unknown_key_without_a_neighbour_is_told_the_known_ones() -> None:
    assert problems("zzz: 1") == [
        "f:1: zzz: unknown key; the keys here are inner, many, flag, free, limits"
    ]


def test_a_document_that_is_no_mapping_is_refused() -> None:
    assert problems("- 1") == ["f:1: must be a mapping of keys to values, not [1]"]


def test_a_long_value_is_shown_in_part() -> None:
    (problem,) = problems(f"flag: {'x' * 100}")
    assert problem.endswith(f'not "{"x" * 56}...')


def test_free_values_pass_as_they_are() -> None:
    document = read_yaml("free: {a: [1, {b: null}], c: 2026-11-01}", "f")
    assert parse_section(Outer, document).free == {"a": [1, {"b": None}], "c": "2026-11-01"}
