"""One tool call, read from the JSON that a model writes, as it comes.

Such as `{"name": "add", "arguments": {"a": 1}}`. The arguments are passed on as the
model wrote them, from the moment they are known to be an object. Each character is
read once, so that the work grows with the text alone, however it is cut.
"""

import json
import re
from typing import Any

_ARGUMENT_KEYS = ("arguments", "parameters")
# What stands between characters that mean something, inside a string and outside.
_IN_STRING = re.compile(r'[^"\\]+|.', re.DOTALL)
_OUTSIDE = re.compile(r'[^"{}\[\]:,]+|.', re.DOTALL)
_ESCAPED = re.compile(r".", re.DOTALL)


class CallScanner:
    """Reads one object. With a `name`, the object is that function's arguments.

    `is_done` tells that the object has ended.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.is_done = False
        self._is_bare = name is not None
        self._is_open = self._is_bare
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._key: str | None = None
        self._raw: list[str] = []
        self._token: list[str] = []
        self._arguments: list[str] = []
        self._spaces: list[str] = []
        self._has_arguments = False

    @property
    def is_call(self) -> bool:
        """It is known to be a call: its name is there, and its arguments are an object."""
        return self.name is not None and self._is_open

    @property
    def raw(self) -> str:
        """All of the object's text so far."""
        return "".join(self._raw)

    def feed(self, text: str, start: int) -> int:
        """Read `text` from `start`, which is at the object's brace at first, to the
        object's end or the text's. The place where it ends.
        """
        place = start
        while place < len(text) and not self.is_done:
            found = self._next.match(text, place)
            assert found is not None, "each pattern takes any character"
            place = found.end()
            self._read(found[0])
        self._raw.append(text[start:place])
        return place

    def take(self) -> str:
        """Arguments that came since the last time; empty while `is_call` is false."""
        if not self.is_call:
            return ""
        new = "".join(self._arguments)
        self._arguments.clear()
        ready = new.rstrip()
        if not ready:
            self._spaces += [new] if new else []
            return ""
        # Space at the end may stand behind the arguments, where it is not theirs.
        before, self._spaces = self._spaces, [new[len(ready) :]]
        return "".join(before) + ready

    @property
    def _next(self) -> re.Pattern[str]:
        if self._is_escaped:
            return _ESCAPED
        return _IN_STRING if self._in_string else _OUTSIDE

    def _read(self, chunk: str) -> None:
        """Read a character, or several that only stand for themselves."""
        was_inside = self._in_string
        before = self._depth
        self._track(chunk)
        self.is_done = self._depth == 0
        if self._is_bare:
            self._arguments.append(chunk)
        elif before == 0:
            return
        elif not was_inside and before == 1 and (self.is_done or chunk in ":,"):
            self._divide(chunk)
        else:
            self._add(chunk)

    def _track(self, chunk: str) -> None:
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif chunk == "\\":
                self._is_escaped = True
            elif chunk == '"':
                self._in_string = False
        elif chunk == '"':
            self._in_string = True
        elif chunk in "{[":
            self._depth += 1
        elif chunk in "}]":
            self._depth -= 1

    def _divide(self, char: str) -> None:
        """A colon ends a key, a comma or the last brace a value."""
        if char == ":" and self._key is None:
            key = _decoded(self._token)
            self._key = key if isinstance(key, str) else ""
            self._token = []
            return
        if self._takes_arguments:
            self._end_arguments()
        elif self._key == "name" and self.name is None:
            name = _decoded(self._token)
            self.name = name if isinstance(name, str) and name else None
        self._key, self._token = None, []

    def _add(self, chunk: str) -> None:
        if not self._takes_arguments:
            self._token.append(chunk)
            return
        if not self._arguments and not self._is_open:
            chunk = chunk.lstrip()
            self._is_open = chunk == "{"
        if chunk:
            self._arguments.append(chunk)

    @property
    def _takes_arguments(self) -> bool:
        return self._key in _ARGUMENT_KEYS and not self._has_arguments

    def _end_arguments(self) -> None:
        """Some models write the arguments as a string of JSON, or null for none."""
        self._has_arguments = True
        if self._is_open:
            return
        value = _decoded(self._arguments)
        self._arguments = []
        if value is None:
            self._arguments, self._is_open = ["{}"], True
        elif isinstance(value, str) and isinstance(_decoded([value]), dict):
            self._arguments, self._is_open = [value.strip()], True


def _decoded(pieces: list[str]) -> Any:
    """The JSON value; text that is none is told apart by being a list, of no use here."""
    try:
        return json.loads("".join(pieces))
    except (ValueError, RecursionError):
        return []
