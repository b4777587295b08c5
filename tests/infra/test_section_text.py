"""Sections as text: documented, and the same section when read back."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from infra.section import Section
from infra.section_file import parse_section
from infra.section_text import render_section
from infra.strict_yaml import read_yaml


class Part(Section):
    name: str
    """What it is called."""

    share: float = 0.5


class Whole(Section):
    parts: list[Part] = []
    """Pieces."""

    single: Part = Part(name="only")
    where: Path = Field(default="/tmp")  # type: ignore[assignment]
    text: str | None = None
    """A very long description that goes on and on, past the width of any line, so that
    it has to be wrapped."""

    free: dict[str, Any] = {}


def test_a_section_is_shown_with_descriptions_and_defaults_marked() -> None:
    whole = Whole(parts=[Part(name="a", share=1e-7), Part(name="no")], text="x: y")
    assert render_section(whole).splitlines() == [
        "# Pieces.",
        "parts:",
        "  # What it is called.",
        "  - name: a",
        "    share: 1e-07",
        '  - name: "no"',
        "    share: 0.5  # default",
        "single:  # default",
        "  # What it is called.",
        "  name: only",
        "  share: 0.5  # default",
        "where: /tmp  # default",
        "# A very long description that goes on and on, past the width of any line, so that it",
        "# has to be wrapped.",
        'text: "x: y"',
        "free: {}  # default",
    ]


# What YAML could take for something else, and anything that can be encoded.
awkward = st.sampled_from("ab1e.-:#'\"\\ \n\té\u2028\x85~[{&*!|>%@`,?")
texts = st.text(awkward | st.characters(codec="utf-8"))
free = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=5,
)
parts = st.builds(Part, name=texts, share=st.floats(allow_nan=False, allow_infinity=False))


@given(
    st.builds(
        Whole,
        parts=st.lists(parts),
        single=parts,
        text=texts | st.none(),
        free=st.dictionaries(texts, free),
    )
)
def test_what_is_shown_reads_back_as_the_same_section(whole: Whole) -> None:
    document = read_yaml(render_section(whole), "shown")
    assert parse_section(Whole, document) == whole
