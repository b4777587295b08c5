"""Options of a command, gathered into one value."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

Command = Callable[..., None]
Option = Callable[[Command], Command]


def gathering(name: str, kind: type[Any], options: Sequence[Option]) -> Option:
    """A decorator that gives a command these options; it receives them as `name`.

    `kind` is a dataclass; its fields have the names of the options.
    """
    names = {field.name for field in fields(kind)}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**values: Any) -> None:
            own = {key: values.pop(key) for key in names & values.keys()}
            command(**{name: kind(**own)}, **values)

        for option in reversed(options):
            option(gathered)
        return gathered

    return decorate
