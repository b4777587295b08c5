"""Words that two processes share, and the instructions they are made of."""

import platform
import re
from typing import Any

import numba
import numpy as np
import pytest

from experts.transport import shared_word
from experts.transport.shared_word import SharedWord


def words() -> tuple[SharedWord, SharedWord]:
    memory = np.zeros(16, np.uint8)
    return SharedWord(memory, 0), SharedWord(memory, 8)


def test_a_word_has_64_bits_and_is_nobody_elses() -> None:
    first, second = words()
    first.store(2**64 - 1)
    assert (first.load(), second.load()) == (2**64 - 1, 0)
    assert second.store_then_load(7, first) == 2**64 - 1
    assert second.store_then_load(8, second) == 8


@pytest.mark.parametrize("offset", [-8, 9, 16])
def test_a_word_lies_within_its_memory(offset: int) -> None:
    with pytest.raises(AssertionError):
        SharedWord(np.zeros(16, np.uint8), offset)


def test_a_word_begins_at_a_multiple_of_its_size() -> None:
    with pytest.raises(AssertionError):
        SharedWord(np.zeros(32, np.uint8), 4)


def code_of(function: Any, kind: str) -> str:
    """Compiled anew, since code from the disk cannot be looked at."""
    (signature,) = function.signatures
    (text,) = getattr(numba.njit(signature)(function.py_func), f"inspect_{kind}")().values()
    return str(text)


def test_the_orders_are_asked_of_the_compiler() -> None:
    store, load = (
        r"store atomic i64 .* release, align 8",
        r"load atomic i64, .* acquire, align 8",
    )
    first, _, rest = code_of(shared_word._store_then_load, "llvm").partition("fence seq_cst")
    assert re.search(store, first)
    assert re.search(load, rest)
    assert re.search(load, code_of(shared_word._load, "llvm"))
    assert re.search(store, code_of(shared_word._store, "llvm"))


def test_the_fence_is_there_in_the_machine_code() -> None:
    fences = {"x86_64": r"\bmfence\b|\block\b", "aarch64": r"\bdmb\s+ish\b"}
    if platform.machine() not in fences:
        pytest.skip(f"its fence is not known: {platform.machine()}")
    assert re.search(fences[platform.machine()], code_of(shared_word._store_then_load, "asm"))
