"""A number of 64 bits in memory that two processes share.

Two orders are needed, whatever the processor:

| what                                               | how                            |
|----------------------------------------------------|--------------------------------|
| who sees the number sees what was written before it | release store, acquire load    |
| of two that each write one word and read the other's, | a full fence between the two |
| at least one sees the other's                      |                                |

They are compiled by LLVM as atomic instructions: plain moves and one `mfence` on x86-64,
which keeps stores in order and loads in order by itself, but lets a load pass an older
store; `stlr`, `ldar` and `dmb ish` on aarch64, which would let any of them pass. Python
alone promises neither.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from infra.compiled import compiled

WORD_BYTES = 8

_WORD = ir.IntType(64)


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def _load_acquire(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", WORD_BYTES)

    return types.uint64(types.uintp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store_release(typing_context: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, args[0])
        builder.store_atomic(args[1], pointer, "release", WORD_BYTES)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fence(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@compiled(types.uint64(types.uintp))
def _load(address: int) -> int:
    return _load_acquire(address)  # type: ignore[no-any-return]


@compiled(types.void(types.uintp, types.uint64))
def _store(address: int, value: int) -> None:
    _store_release(address, value)


@compiled(types.uint64(types.uintp, types.uint64, types.uintp))
def _store_then_load(address: int, value: int, other: int) -> int:
    _store_release(address, value)
    _fence()
    return _load_acquire(other)  # type: ignore[no-any-return]


class SharedWord:
    """The word at an offset of some memory, which it keeps mapped.

    One process writes it. Each call takes 0.2 microseconds.
    """

    __slots__ = ("_address", "_memory", "load", "store")

    def __init__(self, memory: NDArray[np.uint8], offset: int) -> None:
        assert 0 <= offset <= len(memory) - WORD_BYTES
        self._memory = memory
        self._address = memory.ctypes.data + offset
        assert self._address % WORD_BYTES == 0
        self.load: Callable[[], int] = partial(_load, self._address)
        """Its value; what was written before it was stored can be read from here on."""
        self.store: Callable[[int], None] = partial(_store, self._address)
        """Give it another value, after all that was written before."""

    def store_then_load(self, value: int, other: "SharedWord") -> int:
        """Store, and then read the other word, never the other way round."""
        return _store_then_load(self._address, value, other._address)
