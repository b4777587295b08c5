"""One tool call, read character by character from the JSON that a model writes.

Such as `{"name": "add", "arguments": {"a": 1}}`. The arguments are passed on as the
model wrote them, from the moment they are known to be an object.
"""

import json
from typing import Any

_ARGUMENT_KEYS = ("arguments", "parameters")


class CallScanner:
    """Reads one object. With a `name`, the object is that function's arguments.

    `is_done` tells that the object has ended; `raw` is all of its text.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.is_done = False
        self.raw = ""
        self._is_bare = name is not None
        self._is_open = self._is_bare
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._key: str | None = None
        self._token = ""
        self._arguments = ""
        self._has_arguments = False

    @property
    def is_call(self) -> bool:
        """It is known to be a call: its name is there, and its arguments are an object."""
        return self.name is not None and self._is_open

    def feed(self, char: str) -> None:
        """Read the next character of the object; the first is its brace."""
        self.raw += char
        was_inside = self._in_string
        before = self._depth
        self._track(char)
        self.is_done = self._depth == 0
        if self._is_bare:
            self._arguments += char
        elif before == 0:
            return
        elif not was_inside and before == 1 and (self.is_done or char in ":,"):
            self._divide(char)
        else:
            self._add(char)

    def take(self) -> str:
        """Arguments that came since the last time; empty while `is_call` is false."""
        if not self.is_call:
            return ""
        # Space at the end may stand behind the arguments, where it is not theirs.
        ready = self._arguments.rstrip()
        self._arguments = self._arguments[len(ready) :]
        return ready

    def _track(self, char: str) -> None:
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1

    def _divide(self, char: str) -> None:
        """A colon ends a key, a comma or the last brace a value."""
        if char == ":" and self._key is None:
            key = _decoded(self._token)
            self._key = key if isinstance(key, str) else ""
            self._token = ""
            return
        if self._takes_arguments:
            self._end_arguments()
        elif self._key == "name" and self.name is None:
            name = _decoded(self._token)
            self.name = name if isinstance(name, str) and name else None
        self._key, self._token = None, ""

    def _add(self, char: str) -> None:
        if not self._takes_arguments:
            self._token += char
        elif self._arguments or self._is_open or not char.isspace():
            self._is_open = self._is_open or (not self._arguments and char == "{")
            self._arguments += char

    @property
    def _takes_arguments(self) -> bool:
        return self._key in _ARGUMENT_KEYS and not self._has_arguments

    def _end_arguments(self) -> None:
        """Some models write the arguments as a string of JSON, or null for none."""
        self._has_arguments = True
        if self._is_open:
            return
        value = _decoded(self._arguments)
        self._arguments = ""
        if value is None:
            self._arguments, self._is_open = "{}", True
        elif isinstance(value, str) and isinstance(_decoded(value), dict):
            self._arguments, self._is_open = value.strip(), True


def _decoded(text: str) -> Any:
    """The JSON value; text that is none is told apart by being a list, of no use here."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return []
