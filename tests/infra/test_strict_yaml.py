"""Strict YAML: what it refuses, and that it knows the line of everything."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.strict_yaml import format_path, read_yaml, read_yaml_file


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read_yaml(text, "f.yaml")
    return refused.value.message


def test_every_value_knows_its_line() -> None:
    document = read_yaml("a: 1\nb:\n  - c: 2\n    d: [3, 4]\n  - e\n", "f.yaml")
    assert document.data == {"a": 1, "b": [{"c": 2, "d": [3, 4]}, "e"]}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 0, "c"): 3,
        ("b", 0, "d"): 4,
        ("b", 0, "d", 0): 4,
        ("b", 0, "d", 1): 4,
        ("b", 1): 5,
    }


def test_a_missing_value_has_the_line_of_what_is_around_it() -> None:
    document = read_yaml("a:\n  b:\n    c: 1\n", "f.yaml")
    assert document.line_of(("a", "b", "missing", 0)) == 2


def test_an_empty_document_is_an_empty_mapping() -> None:
    assert read_yaml("# nothing but a comment\n", "f.yaml").data == {}


def test_all_repeated_keys_are_named_with_both_lines() -> None:
    assert refusal("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").splitlines() == [
        "f.yaml:4: b.c: the key stands twice, first in line 3",
        "f.yaml:5: a: the key stands twice, first in line 1",
    ]


def test_a_key_repeated_within_one_line_is_refused() -> None:
    assert refusal("{a: 1, a: 2}") == "f.yaml:1: a: the key stands twice, first in line 1"


@pytest.mark.parametrize(("key", "shown"), [("5", "5"), ("on", "on"), ("[x]", "a collection")])
def test_a_key_that_is_no_text_is_refused(key: str, shown: str) -> None:
    assert refusal(f"? {key}\n: 1\n") == (
        f"f.yaml:1: {shown}: a key must be text; put it in quotes"
    )


def test_a_merged_mapping_is_overridden_and_not_repeated() -> None:
    document = read_yaml("a: &x\n  k: 1\n  l: 2\nb:\n  <<: *x\n  k: 3\n", "f.yaml")
    assert document.data["b"] == {"k": 3, "l": 2}
    assert document.lines[("b", "k")] == 6
    assert document.lines[("b", "l")] == 3


def test_a_value_that_contains_itself_is_refused() -> None:
    assert refusal("a: &x\n  b: *x\n") == "f.yaml:1: a.b: contains itself"


def test_broken_yaml_is_refused_with_its_line() -> None:
    assert refusal("a: 1\nb: [1\n").startswith("f.yaml:3: not valid YAML: ")


def test_two_documents_in_one_file_are_refused() -> None:
    assert refusal("a: 1\n---\nb: 2\n").startswith("f.yaml:2: not valid YAML: ")


def test_a_character_that_yaml_does_not_allow_is_refused() -> None:
    assert "special characters are not allowed" in refusal("a: \x7f")


def test_a_tag_that_would_build_an_object_is_refused() -> None:
    assert "could not determine a constructor" in refusal("a: !!python/name:os.system x\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E9", 1e9),
        ("1_000", 1000),
        ("2026-11-01", "2026-11-01"),
        ("yes", True),
        ("1e", "1e"),
        ('"8"', "8"),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    data = read_yaml(f"a: {text}", "f.yaml").data
    assert (data, type(data["a"])) == ({"a": value}, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 0b_", "f.yaml: not valid YAML: .*; use quotes for text"),
        ("a: 0x_", "f.yaml: not valid YAML: .*; use quotes for text"),
        ("a: " + "[" * 5000 + "]" * 5000, "f.yaml: is nested too deeply"),
        ("a: " + "{b: " * 5000 + "}" * 5000, "f.yaml: is nested too deeply"),
    ],
)
def test_what_the_parser_itself_trips_over_is_the_operator_s_mistake(
    text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_yaml(text, "f.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        read_yaml_file(missing)
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read: it is not UTF-8"):
        read_yaml_file(binary)


def test_a_path_is_written_as_one_would_in_python() -> None:
    assert format_path(("models", 0, "cores", 1, "x")) == "models[0].cores[1].x"
    assert format_path(()) == ""
