"""Tool calls in the text that a model writes, found while the text comes.

Each family of models writes calls in a form of its own (`TOOL_FORMS`):

    hermes       text <tool_call>{"name": "f", "arguments": {}}</tool_call> ...
    llama3_json  {"name": "f", "parameters": {}}; ...     <|python_tag|> may precede it
    mistral      text [TOOL_CALLS][{"name": "f", "arguments": {}}, ...]
                 text [TOOL_CALLS]f[ARGS]{} ...

Where a call is demanded, the output is constrained to a JSON list of calls, or to the
arguments of one function: no form of the model's. Whatever is not a call comes out as
text, unchanged; space beside calls belongs to nobody, nor does what is left of a
demanded list that is cut off after a call.
"""

import re
from typing import NamedTuple, Protocol

import msgspec

from deployments.gateway.openai.tool_scanner import CallScanner

_SEPARATORS = " \t\r\n,;[]"
_NAMED_CALL = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*")
_MAX_NAME_CHARS = 256


class TextPiece(NamedTuple):
    """Text of the answer."""

    text: str


class CallPiece(msgspec.Struct, frozen=True):
    """A piece of call `index`: its first has the name, and each may have arguments."""

    index: int
    name: str | None
    arguments: str


Piece = TextPiece | CallPiece


class ToolParser(Protocol):
    """Finds the calls of one output; a text cut anywhere gives the same calls."""

    def feed(self, text: str) -> list[Piece]:
        """What is certain after this much more text."""
        ...

    def finish(self) -> list[Piece]:
        """What is left at the output's end; call it once."""
        ...


class ToolForm(NamedTuple):
    """How a family of models marks its calls; an empty marker is none."""

    opening: str
    closing: str = ""
    is_bare: bool = False
    """Calls may stand at the output's very begin without the opening."""


TOOL_FORMS = {
    "hermes": ToolForm("<tool_call>", "</tool_call>"),
    "llama3_json": ToolForm("<|python_tag|>", is_bare=True),
    "mistral": ToolForm("[TOOL_CALLS]"),
}
LIST_OF_CALLS = ToolForm("", is_bare=True)


class FormParser:
    """Finds calls in one of the forms; at most `max_calls` are given out.

    What waits to be read stands in `_pending` from `_at` on: nothing is copied for each
    step, so that the work grows with the text alone.
    """

    def __init__(self, form: ToolForm, max_calls: int | None = None) -> None:
        self._form = form
        self._inner_separators = _SEPARATORS.replace(form.opening[:1], "")
        self._max_calls = max_calls
        self._num_calls = 0
        self._pending = ""
        self._at = 0
        self._space: list[str] = []
        self._raw: list[str] = []
        self._is_at_begin = True
        self._is_after_call = False
        self._in_calls = False
        self._scanner: CallScanner | None = None
        self._is_announced = False
        self._found: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """See `ToolParser.feed`."""
        self._pending = self._pending[self._at :] + text
        self._at = 0
        while self._at < len(self._pending) and self._step():
            pass
        self._tell()
        return self._taken()

    def finish(self) -> list[Piece]:
        """See `ToolParser.finish`."""
        rest = self._pending[self._at :]
        if self._in_calls:
            if self._scanner is not None and not self._scanner.is_call:
                self._raw.append(self._scanner.raw)
            # A demanded list that is cut off is still a list: its rest is no answer.
            is_cut_list = self._form is LIST_OF_CALLS and self._num_calls > 0
            is_cut_closing = self._form.closing.startswith(rest) and self._is_between
            self._leave(len(self._pending), is_dropped=is_cut_list or is_cut_closing)
        else:
            self._text(rest)
        if self._space:
            self._found.append(TextPiece("".join(self._space)))
        return self._taken()

    def _step(self) -> bool:
        """Read on; false where more text is needed first."""
        if self._scanner is not None:
            return self._step_in_call(self._scanner)
        return self._step_in_calls() if self._in_calls else self._step_in_text()

    def _step_in_text(self) -> bool:
        form = self._form
        if form.is_bare and self._is_at_begin:
            return self._step_at_begin()
        end = len(self._pending)
        if not form.opening:
            return self._give_text(end)
        place = self._pending.find(form.opening, self._at)
        if place < 0:
            return self._give_text(end - _overlap(self._pending[self._at :], form.opening))
        self._give_text(place)
        self._at += len(form.opening)
        self._enter(form.opening)
        return True

    def _step_at_begin(self) -> bool:
        first = self._pending[self._at]
        if first.isspace():
            self._give_text(self._at + 1)
            return True
        self._is_at_begin = False
        if first == "{" or (first == "[" and not self._form.opening):
            self._enter("")
        return True

    def _step_in_calls(self) -> bool:
        """Between the calls: what comes is a separator, a call, the end, or no call."""
        opening, closing, _ = self._form
        if opening and self._pending.startswith(opening, self._at):
            self._skip(len(opening))
            return True
        if self._may_begin(opening):
            return False
        if self._pending[self._at] in _SEPARATORS:
            self._skip_separators()
            return True
        if self._pending[self._at] == "{":
            self._begin_call(CallScanner())
            return True
        if closing and self._pending.startswith(closing, self._at):
            self._leave(self._at + len(closing), is_dropped=self._is_between)
            return True
        if self._may_begin(closing):
            return False
        return self._step_to_named_call()

    def _step_to_named_call(self) -> bool:
        """Mistral's newer form, if it is that: the name, then the arguments."""
        end = self._at + _MAX_NAME_CHARS
        brace = self._pending.find("{", self._at, end + 1)
        head = self._pending[self._at : end + 1 if brace < 0 else brace]
        named = _NAMED_CALL.fullmatch(head)
        is_possible = self._form is TOOL_FORMS["mistral"] and len(head) <= _MAX_NAME_CHARS
        if is_possible and brace >= 0 and named:
            self._skip(len(head))
            self._begin_call(CallScanner(named[1]))
            return True
        if is_possible and brace < 0 and " " not in head.rstrip():
            return False
        self._leave(self._at)
        return True

    def _step_in_call(self, scanner: CallScanner) -> bool:
        self._at = scanner.feed(self._pending, self._at)
        if scanner.is_done:
            self._end_call(scanner)
        return scanner.is_done

    def _begin_call(self, scanner: CallScanner) -> None:
        self._scanner = scanner
        self._is_announced = False

    def _end_call(self, scanner: CallScanner) -> None:
        if scanner.is_call:
            self._tell()
            self._num_calls += 1
        else:
            self._raw.append(scanner.raw)
        self._scanner = None

    def _tell(self) -> None:
        """Give out what is new of the call under way."""
        scanner = self._scanner
        if scanner is None or not scanner.is_call:
            return
        name = None if self._is_announced else scanner.name
        arguments = scanner.take()
        self._is_announced = True
        self._is_after_call, self._space, self._raw = True, [], []
        is_wanted = self._max_calls is None or self._num_calls < self._max_calls
        if is_wanted and (name or arguments):
            self._found.append(CallPiece(self._num_calls, name, arguments))

    def _enter(self, opening: str) -> None:
        self._in_calls = True
        self._raw = [opening]

    def _leave(self, place: int, *, is_dropped: bool = False) -> None:
        """Back to text at `place`; what turned out to be no call is text after all."""
        before = "".join([*self._raw, self._pending[self._at : place]])
        self._in_calls, self._at, self._raw = False, place, []
        if is_dropped or not before.strip(_SEPARATORS):
            self._space = []
        else:
            self._text(before)

    @property
    def _is_between(self) -> bool:
        """Only separators have come since the last call."""
        return not "".join(self._raw).strip(_SEPARATORS)

    def _may_begin(self, marker: str) -> bool:
        """What waits is the beginning of the marker, and may become all of it."""
        is_short = len(self._pending) - self._at < len(marker)
        return is_short and marker.startswith(self._pending[self._at :])

    def _skip(self, num_chars: int) -> None:
        self._raw.append(self._pending[self._at : self._at + num_chars])
        self._at += num_chars

    def _skip_separators(self) -> None:
        # One that may begin an opening is skipped alone, once it does not.
        place = self._at + 1
        while place < len(self._pending) and self._pending[place] in self._inner_separators:
            place += 1
        self._skip(place - self._at)

    def _give_text(self, end: int) -> bool:
        self._text(self._pending[self._at : end])
        self._at = end
        return False

    def _text(self, text: str) -> None:
        """Text of the answer. Its last space waits: beside a call it is left out."""
        if self._is_after_call:
            text = text.lstrip()
        told = text.rstrip()
        if told:
            self._found.append(TextPiece("".join([*self._space, told])))
            self._is_after_call = False
            self._space = []
        if len(told) < len(text):
            self._space.append(text[len(told) :])

    def _taken(self) -> list[Piece]:
        found, self._found = self._found, []
        return found


class ArgumentsParser:
    """Takes all text as the arguments of the one function that was demanded."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> list[Piece]:
        """See `ToolParser.feed`."""
        name, self._name = self._name, None
        return [CallPiece(0, name, text)] if name or text else []

    def finish(self) -> list[Piece]:
        """See `ToolParser.finish`."""
        return []


def _overlap(text: str, marker: str) -> int:
    """Length of the marker's longest proper prefix that the text ends with."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)
