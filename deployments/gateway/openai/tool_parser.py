"""Tool calls in the text that a model writes, found while the text comes.

Each family of models writes calls in a form of its own (`TOOL_FORMS`):

    hermes       text <tool_call>{"name": "f", "arguments": {}}</tool_call> ...
    llama3_json  {"name": "f", "parameters": {}}; ...     <|python_tag|> may precede it
    mistral      text [TOOL_CALLS][{"name": "f", "arguments": {}}, ...]
                 text [TOOL_CALLS]f[ARGS]{} ...

Where a call is demanded, the output is constrained to a JSON list of calls, or to the
arguments of one function: no form of the model's. Whatever is not a call comes out as
text, unchanged; space beside calls belongs to nobody.
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
    """Finds calls in one of the forms; at most `max_calls` are given out."""

    def __init__(self, form: ToolForm, max_calls: int | None = None) -> None:
        self._form = form
        self._max_calls = max_calls
        self._num_calls = 0
        self._pending = ""
        self._space = ""
        self._raw = ""
        self._is_at_begin = True
        self._is_after_call = False
        self._in_calls = False
        self._scanner: CallScanner | None = None
        self._is_announced = False
        self._found: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """See `ToolParser.feed`."""
        self._pending += text
        while self._step():
            pass
        self._tell()
        return self._taken()

    def finish(self) -> list[Piece]:
        """See `ToolParser.finish`."""
        if self._in_calls:
            if self._scanner is not None and not self._scanner.is_call:
                self._raw += self._scanner.raw
            is_cut_closing = self._form.closing.startswith(self._pending)
            self._leave("", is_dropped=is_cut_closing and self._is_between)
        self._text(self._pending)
        if self._space and not self._is_after_call:
            self._found.append(TextPiece(self._space))
        return self._taken()

    def _step(self) -> bool:
        """Read on; false where more text is needed first."""
        if not self._pending:
            return False
        if self._scanner is not None:
            return self._step_in_call(self._scanner)
        return self._step_in_calls() if self._in_calls else self._step_in_text()

    def _step_in_text(self) -> bool:
        form = self._form
        if form.is_bare and self._is_at_begin:
            stripped = self._pending.lstrip()
            if not stripped:
                return False
            self._is_at_begin = False
            if stripped[0] in "[{" if not form.opening else stripped[0] == "{":
                self._enter("")
                return True
        if not form.opening:
            return self._give_text(len(self._pending))
        place = self._pending.find(form.opening)
        if place < 0:
            return self._give_text(len(self._pending) - _overlap(self._pending, form.opening))
        self._text(self._pending[:place])
        self._pending = self._pending[place + len(form.opening) :]
        self._enter(form.opening)
        return True

    def _step_in_calls(self) -> bool:
        """Between the calls: what comes is a separator, a call, the end, or no call."""
        opening, closing, _ = self._form
        if opening and self._pending.startswith(opening):
            self._skip(len(opening))
            return True
        if opening.startswith(self._pending):
            return False
        if self._pending[0] in _SEPARATORS:
            # One that may begin an opening is skipped alone, once it does not.
            after = self._pending.lstrip(_SEPARATORS.replace(opening[:1], ""))
            self._skip(max(1, len(self._pending) - len(after)))
            return True
        if self._pending[0] == "{":
            self._begin_call(CallScanner())
            return True
        if closing and self._pending.startswith(closing):
            self._leave(self._pending[len(closing) :], is_dropped=self._is_between)
            return True
        if closing.startswith(self._pending):
            return False
        return self._step_to_named_call()

    def _step_to_named_call(self) -> bool:
        """Mistral's newer form, if it is that: the name, then the arguments."""
        head, brace, _ = self._pending.partition("{")
        named = _NAMED_CALL.fullmatch(head)
        is_possible = self._form is TOOL_FORMS["mistral"] and len(head) <= _MAX_NAME_CHARS
        if is_possible and brace and named:
            self._skip(len(head))
            self._begin_call(CallScanner(named[1]))
            return True
        if is_possible and not brace and " " not in head.rstrip():
            return False
        self._leave(self._pending)
        return True

    def _step_in_call(self, scanner: CallScanner) -> bool:
        for place, char in enumerate(self._pending, start=1):
            scanner.feed(char)
            if scanner.is_done:
                self._pending = self._pending[place:]
                self._end_call(scanner)
                return True
        self._pending = ""
        return False

    def _begin_call(self, scanner: CallScanner) -> None:
        self._scanner = scanner
        self._is_announced = False

    def _end_call(self, scanner: CallScanner) -> None:
        if scanner.is_call:
            self._tell()
            self._num_calls += 1
            self._raw = ""
        else:
            self._raw += scanner.raw
        self._scanner = None

    def _tell(self) -> None:
        """Give out what is new of the call under way."""
        scanner = self._scanner
        if scanner is None or not scanner.is_call:
            return
        name = None if self._is_announced else scanner.name
        arguments = scanner.take()
        self._is_announced = True
        self._is_after_call, self._space, self._raw = True, "", ""
        is_wanted = self._max_calls is None or self._num_calls < self._max_calls
        if is_wanted and (name or arguments):
            self._found.append(CallPiece(self._num_calls, name, arguments))

    def _enter(self, opening: str) -> None:
        self._in_calls = True
        self._raw = opening

    def _leave(self, rest: str, *, is_dropped: bool = False) -> None:
        """Back to text; what turned out to be no call is text after all."""
        skipped = self._pending[: len(self._pending) - len(rest)]
        before, self._raw = self._raw + skipped, ""
        self._in_calls, self._pending = False, rest
        if not is_dropped and before.strip(_SEPARATORS):
            self._text(before)

    @property
    def _is_between(self) -> bool:
        """Only separators have come since the last call."""
        return not self._raw.strip(_SEPARATORS)

    def _skip(self, num_chars: int) -> None:
        self._raw += self._pending[:num_chars]
        self._pending = self._pending[num_chars:]

    def _give_text(self, num_chars: int) -> bool:
        self._text(self._pending[:num_chars])
        self._pending = self._pending[num_chars:]
        return False

    def _text(self, text: str) -> None:
        """Text of the answer. Its last space waits: beside a call it is left out."""
        whole = self._space + text
        if self._is_after_call:
            whole = whole.lstrip()
        told = whole.rstrip()
        self._space = whole[len(told) :]
        if told:
            self._is_after_call = False
            self._found.append(TextPiece(told))

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
