"""Token ids from a Python list into an array, at memory's pace.

`array.array` asks each object for its value through the interpreter: about 6 ns a
token, more than all the rest of a lookup in the index takes. On the versions of
CPython whose memory layout is in `_LAYOUTS` the list's objects are read where they
lie, at about 1 ns a token.

| bytes   | of a list            | of an int                                          |
|---------|----------------------|----------------------------------------------------|
| [8,16)  |                      | its type                                           |
| [16,24) | number of items      | sign and number of digits                          |
| [24,..) | address of its items | digits, 30 bits in each, at the start of 4 bytes   |

That is safe under these conditions, and each is checked:

- the interpreter is one whose layout is known, and what is read at import is what
  `array.array` finds; otherwise nothing is ever read this way;
- the object is a list itself, not of a class derived from it; its length is read again
  within the compiled loop, which holds the interpreter's lock from then on, so that
  no other thread changes the list;
- each item's type is `int` itself, and it has no sign and at most one digit. The
  first item that differs ends the loop, and `array.array` decides on the whole list.
"""

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from cache.types import Tokens
from infra.compiled import compiled

MAX_TOKEN_ID = 2**32 - 1


@dataclass(frozen=True)
class _Layout:
    """Bytes [16,24) of an int that is zero, and of one that has one digit."""

    zero: int
    one_digit: int


_LAYOUTS = {(3, 11): _Layout(zero=0, one_digit=1), (3, 12): _Layout(zero=1, one_digit=8)}


def token_array(token_ids: Sequence[int]) -> Tokens:
    """The ids as an array; a list of ints is fastest. Shape: [len(token_ids)].

    Raises ValueError for an id that is no int from 0 to `MAX_TOKEN_ID`.
    """
    if _LAYOUT is not None and type(token_ids) is list:
        tokens = _read_all(token_ids, _LAYOUT)
        if tokens is not None:
            return tokens
    return _converted(token_ids)


def _converted(token_ids: Sequence[int]) -> Tokens:
    try:
        return np.frombuffer(array("I", token_ids), np.uint32)
    except (OverflowError, TypeError):
        pass
    at = next(i for i, token in enumerate(token_ids) if not _is_token_id(token))
    raise ValueError(
        f"token id {at} is {token_ids[at]!r:.40}; it must be an int from 0 to {MAX_TOKEN_ID}"
    )


def _is_token_id(token: object) -> bool:
    try:
        array("I", [token])  # type: ignore[type-var]
    except (OverflowError, TypeError):
        return False
    return True


def _loader(number_type: Any) -> Any:
    """A compiled function that reads the number at an address."""

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer_type = context.get_value_type(number_type).as_pointer()
            return builder.load(builder.inttoptr(arguments[0], pointer_type))

        return number_type(types.uint64), generate

    return load


_load_8_bytes = _loader(types.uint64)
_load_4_bytes = _loader(types.uint32)


@compiled(types.boolean(*[types.uint64] * 4, types.uint32[::1]))
def _read(list_at: int, int_at: int, zero: int, one_digit: int, tokens: Tokens) -> bool:
    """Whether the list is of tokens of one digit at most; `tokens` then holds them."""
    if _load_8_bytes(list_at + np.uint64(16)) != len(tokens):
        return False
    items_at = _load_8_bytes(list_at + np.uint64(24))
    for i in range(len(tokens)):
        item_at = _load_8_bytes(items_at + np.uint64(8 * i))
        if _load_8_bytes(item_at + np.uint64(8)) != int_at:
            return False
        size = _load_8_bytes(item_at + np.uint64(16))
        if size == one_digit:
            tokens[i] = _load_4_bytes(item_at + np.uint64(24))
        elif size == zero:
            tokens[i] = 0
        else:
            return False
    return True


def _known_layout() -> _Layout | None:
    """That of this interpreter, where it is known and `_read` is proven on it."""
    sizes = [kind.__basicsize__ for kind in (object, int, list)]
    is_known = sys.implementation.name == "cpython" and sys.byteorder == "little"
    if not is_known or sizes != [16, 24, 40] or int.__itemsize__ != 4:
        return None
    layout = _LAYOUTS.get(sys.version_info[:2])
    return layout if layout is not None and _is_proven(layout) else None


def _is_proven(layout: _Layout) -> bool:
    """It reads what `array.array` reads, and refuses what it must."""
    readable = [0, 1, 2, 255, 256, 257, 32767, 32768, 65536, 151643, 2**29, 2**30 - 1]
    refused = [-1, -257, 2**30, 2**32 - 1, 2**60, True, 1.5, None, "1", np.uint32(1)]
    tokens = _read_all(readable, layout)
    is_equal = tokens is not None and np.array_equal(tokens, _converted(readable))
    return is_equal and all(_read_all([7, item], layout) is None for item in refused)


def _read_all(token_ids: list[Any], layout: _Layout) -> Tokens | None:
    tokens = np.empty(len(token_ids), np.uint32)
    is_read = _read(id(token_ids), id(int), layout.zero, layout.one_digit, tokens)
    return tokens if is_read else None


_LAYOUT = _known_layout()
