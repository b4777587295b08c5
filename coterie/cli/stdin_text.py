"""Arguments that may come from standard input."""

import sys

from coterie.errors import InvalidArgumentError


def text_or_stdin(argument: str) -> str:
    """The argument; for `-` all of standard input but its last line end."""
    if argument != "-":
        return argument
    return sys.stdin.read().removesuffix("\n")


def token_ids_of(text: str) -> list[int]:
    """Numbers between blanks, commas or brackets, as `coterie tokenize` prints them.

    Raises InvalidArgumentError for anything else.
    """
    words = text.translate(str.maketrans(",[]", "   ")).split()
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise InvalidArgumentError(
            f"token ids are numbers such as '504 2736 12', not {text[:40]!r}", param="prompt"
        ) from error
