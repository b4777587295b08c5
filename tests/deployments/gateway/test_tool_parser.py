"""Tool calls in a model's text: what is found, wherever the text is cut."""

import json
import time
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.openai.tool_parser import (
    LIST_OF_CALLS,
    TOOL_FORMS,
    ArgumentsParser,
    CallPiece,
    FormParser,
    TextPiece,
    ToolForm,
    ToolParser,
)
from deployments.gateway.openai.tools import whole_calls
from deployments.settings import ToolParserName

HERMES, LLAMA, MISTRAL = (TOOL_FORMS[n] for n in ("hermes", "llama3_json", "mistral"))
Found = tuple[str, list[tuple[str, Any]]]


def read(parser: ToolParser, *texts: str) -> Found:
    """Text, and name and arguments of each call."""
    pieces = [piece for text in texts for piece in parser.feed(text)] + parser.finish()
    calls = whole_calls([piece for piece in pieces if isinstance(piece, CallPiece)])
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
    return text, [(call.name, call.arguments) for call in calls]


def found(form: ToolForm, text: str) -> Found:
    return read(FormParser(form), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("just text, 1 < 2\n", ("just text, 1 < 2\n", [])),
        (
            '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
            ("", [("add", '{"a": 1}')]),
        ),
        (
            'Sure.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n'
            '<tool_call>{"arguments": {"b": "}"}, "name": "g"}</tool_call>\n',
            ("Sure.", [("f", "{}"), ("g", '{"b": "}"}')]),
        ),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', ("", [("f", "{}")])),
        (
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
            ("", [("f", '{"a": 1}')]),
        ),
        # Cut off by max_tokens.
        ('<tool_call>{"name": "f", "arguments": {"a": 1', ("", [("f", '{"a": 1')])),
        ('a <tool_call>{"name": "f"', ('a <tool_call>{"name": "f"', [])),
        ("a <tool", ("a <tool", [])),
        # No calls after all.
        ("<tool_call>no JSON</tool_call>", ("<tool_call>no JSON</tool_call>", [])),
        ("<tool_call></tool_call>", ("<tool_call></tool_call>", [])),
        (
            '<tool_call>{"name": "f"}</tool_call>',
            ('<tool_call>{"name": "f"}</tool_call>', []),
        ),
        (
            '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
            ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', []),
        ),
    ],
)
def test_hermes_calls_stand_between_tags(text: str, expected: Found) -> None:
    assert found(HERMES, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "f", "parameters": {"a": [1]}}', ("", [("f", '{"a": [1]}')])),
        (
            '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
            ("", [("f", "{}"), ("g", "{}")]),
        ),
        (' {"age": 3} is JSON\n', (' {"age": 3} is JSON\n', [])),
        ('Like {"name": "f", "parameters": {}}', ('Like {"name": "f", "parameters": {}}', [])),
    ],
)
def test_llama_calls_are_all_of_the_output(text: str, expected: Found) -> None:
    assert found(LLAMA, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'ok[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
            ("ok", [("f", "{}"), ("g", "{}")]),
        ),
        (
            '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{"b": 2}',
            ("", [("f", '{"a": 1}'), ("g", '{"b": 2}')]),
        ),
        ('[TOOL_CALLS]f{"a": 1}', ("", [("f", '{"a": 1}')])),
        ("[TOOL_CALLS]what is this", ("[TOOL_CALLS]what is this", [])),
    ],
)
def test_mistral_calls_follow_their_marker(text: str, expected: Found) -> None:
    assert found(MISTRAL, text) == expected


def test_a_demanded_call_is_a_json_list_or_the_arguments_alone() -> None:
    text = '[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {}}]'
    assert found(LIST_OF_CALLS, text) == ("", [("f", '{"a": 1}'), ("g", "{}")])
    assert read(ArgumentsParser("f"), '{"a"', ": 1}") == ("", [("f", '{"a": 1}')])


@pytest.mark.parametrize("rest", [', {"name": "g"', ', {"name": "g", "param', ", {", ","])
def test_what_is_left_of_a_demanded_list_that_is_cut_off_is_no_text(rest: str) -> None:
    text = '[{"name": "f", "parameters": {"a": 1}}' + rest
    assert found(LIST_OF_CALLS, text) == ("", [("f", '{"a": 1}')])


def test_a_demanded_list_that_is_cut_off_before_its_first_call_is_text() -> None:
    assert found(LIST_OF_CALLS, '[{"name": "f') == ('[{"name": "f', [])


def test_where_calls_are_not_parallel_the_first_one_is_given() -> None:
    text = '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}'
    assert read(FormParser(LLAMA, 1), text) == ("", [("f", '{"a": 1}')])


def test_arguments_are_told_before_their_end() -> None:
    parser = FormParser(HERMES)
    assert parser.feed('<tool_call>{"name": "f", "arguments": {"a":') == [
        CallPiece(0, "f", '{"a":')
    ]
    assert parser.feed(" 1") == [CallPiece(0, None, " 1")]


def test_text_is_told_at_once_but_for_what_may_begin_a_call() -> None:
    parser = FormParser(HERMES)
    assert parser.feed("See <to") == [TextPiece("See")]
    assert parser.feed("e>") == [TextPiece(" <toe>")]


def seconds_to_read(form: ToolForm, text: str, num_cuts: int) -> float:
    """Processor time to read the text in that many pieces, or in one: the lesser of two."""
    size = max(1, len(text) // num_cuts)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    taken = []
    for _ in range(2):
        begin_s = time.process_time()
        read(FormParser(form), *pieces)
        taken.append(time.process_time() - begin_s)
    return min(taken)


LONG_TEXTS = {
    "a long argument": (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "', "abcdefgh", 1),
    "one that streams": (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "', "ab", 10**6),
    "one of braces": (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ', "[1],", 1),
    "one of space": (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ', "  ", 10**6),
    "a long value beside": (HERMES, '<tool_call>{"name": "f", "x": "', "abcdefgh", 10**6),
    "arguments in a string": (HERMES, '<tool_call>{"name": "f", "arguments": "', "ab", 10**6),
    "objects that are no calls": (LLAMA, "<|python_tag|>", "{},", 1),
    "calls": (LIST_OF_CALLS, "[", '{"name": "f", "parameters": {}}, ', 1),
    "openings": (HERMES, "", "<tool_call>x", 1),
    "Mistral's openings": (MISTRAL, "", "[TOOL_CALLS]x y", 1),
    "separators": (MISTRAL, "[TOOL_CALLS]", "[,", 1),
    "space at the begin": (LLAMA, "", "\n\n", 10**6),
    "space in the text": (HERMES, "a", "\n\n", 10**6),
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_the_work_grows_with_the_text_and_no_faster(name: str) -> None:
    form, head, repeated, num_cuts = LONG_TEXTS[name]
    num_repeats = 12_000 // len(repeated)
    short_s = seconds_to_read(form, head + repeated * num_repeats, num_cuts)
    long_s = seconds_to_read(form, head + repeated * 16 * num_repeats, num_cuts)
    # Where each character cost what came before it, this would tend to 256.
    assert long_s / short_s < 48


def test_the_configuration_names_exactly_the_forms_there_are() -> None:
    assert set(get_args(ToolParserName)) == set(TOOL_FORMS)


PARTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "f"),
        *('{"name": "f", "arguments": {"a": "} \\" x"}}', '{"parameters": {}, "name": "g"} '),
        *('{"name": "f"', "{", "}", "[", "]", ",", '"', "<", ";", "\\", "text ", " ", "\n"),
    ]
)


@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL, LIST_OF_CALLS]),
    st.lists(PARTS, max_size=8).map("".join),
    st.data(),
)
def test_wherever_the_text_is_cut_the_same_is_found(
    form: ToolForm, text: str, data: st.DataObject
) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)) | {0, len(text)})
    cut = [text[i:j] for i, j in pairwise(places)]
    whole = found(form, text)
    assert read(FormParser(form), *cut) == whole
    assert read(FormParser(form), *text) == whole


@given(st.sampled_from([HERMES, LLAMA, MISTRAL]), st.text(alphabet='<t {"ab}\n', max_size=30))
def test_text_without_a_call_comes_out_unchanged(form: ToolForm, text: str) -> None:
    assert found(form, text) == (text, [])


ARGUMENTS = st.dictionaries(
    st.text(max_size=4), st.text(alphabet='a"\\}{<] ', max_size=6) | st.integers(), max_size=3
)


@given(st.lists(st.tuples(st.sampled_from(["f", "g"]), ARGUMENTS), min_size=1, max_size=3))
def test_calls_that_are_written_in_a_form_are_read_back(
    calls: list[tuple[str, dict[str, Any]]],
) -> None:
    objects = [json.dumps({"name": n, "arguments": a}) for n, a in calls]
    tagged = "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)
    for form, text in (
        (HERMES, tagged),
        (LLAMA, "; ".join(objects)),
        (MISTRAL, f"[TOOL_CALLS][{', '.join(objects)}]"),
        (LIST_OF_CALLS, f"[{', '.join(objects)}]"),
    ):
        told, read_back = found(form, text)
        assert (told, [(n, json.loads(a)) for n, a in read_back]) == ("", calls)
