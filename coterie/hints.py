"""What to type next, said by the place that raises an error.

A command has options of its own, so a class of errors alone does not tell what helps. A
hint is a note of the exception (`BaseException.add_note`); `coterie.cli.console` prints
it, and knows a hint for the classes that come without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from coterie.errors import CoterieError

_Error = TypeVar("_Error", bound=CoterieError)


def hinted(error: _Error, hint: str) -> _Error:
    """The error, with a hint."""
    error.add_note(hint)
    return error


@contextmanager
def hinting(kind: type[CoterieError], hint: str) -> Iterator[None]:
    """Errors of this kind that leave the block without a hint get this one."""
    try:
        yield
    except kind as error:
        if hint_in(error) is None:
            error.add_note(hint)
        raise


def hint_in(error: BaseException) -> str | None:
    """The hint that an error carries."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[0] if notes else None
