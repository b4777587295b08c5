"""Compiled functions: ready when they are imported, wherever their code can be kept."""

from typing import Any

import numpy as np
import pytest
from numba import types

from cache import block_hash, prefix_slots, token_ids, usable_prefix
from infra.compiled import compiled

FUNCTIONS = [
    block_hash._fill_keys,
    block_hash._hash_chain,
    prefix_slots.clear,
    prefix_slots.copy,
    prefix_slots.gather,
    prefix_slots.is_in_order,
    prefix_slots.mask,
    prefix_slots.put,
    prefix_slots.run_lengths,
    token_ids._read,
    usable_prefix._lower,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_function_is_compiled_once_when_it_is_imported(function: Any) -> None:
    assert len(function.signatures) == 1
    with pytest.raises(TypeError):
        function(*[1.5] * 9)
    assert len(function.signatures) == 1


def test_a_function_that_has_no_folder_for_its_code_is_compiled_all_the_same() -> None:
    names: dict[str, Any] = {}
    exec(compile("def double(x):\n    return 2 * x\n", "<nowhere>", "exec"), names)
    double = compiled(types.int64(types.int64))(names["double"])
    assert (double(21), len(double.signatures)) == (42, 1)


def test_an_array_with_gaps_is_refused() -> None:
    tokens = np.arange(64, dtype=np.uint32)[::2]
    with pytest.raises(TypeError):
        block_hash.block_hashes(tokens, 16, 0)
