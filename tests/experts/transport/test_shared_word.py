"""Words that two processes share, and the instructions they are made of."""

import re
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite import binding as llvm  # type: ignore[import-untyped]

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


@pytest.mark.parametrize(
    ("triple", "instructions"),
    [
        ("x86_64-unknown-linux-gnu", ["movq", "mfence", "movq"]),
        ("aarch64-unknown-linux-gnu", ["stlr", "dmb\tish", "ldar"]),
    ],
)
def test_each_processor_gets_the_instructions_that_keep_the_order(
    triple: str, instructions: list[str]
) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(code_of(shared_word._store_then_load, "llvm"))
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2)
    module.triple, module.data_layout = triple, str(machine.target_data)
    code = machine.emit_assembly(module)
    assert re.search(r"\b.*\n(.*\n)*?.*\b".join(instructions), code), code
