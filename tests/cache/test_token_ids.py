"""Token ids from lists: fast where the interpreter is known, right always."""

import sys
import threading
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import token_ids
from cache.token_ids import MAX_TOKEN_ID, token_array

EDGES = [0, 1, 2**15, 2**16, 2**30 - 1, 2**30, 2**31, MAX_TOKEN_ID]
TOKENS = st.one_of(st.sampled_from(EDGES), st.integers(0, MAX_TOKEN_ID))


@pytest.fixture(params=["read from memory", "converted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "converted":
        monkeypatch.setattr(token_ids, "_LAYOUT", None)
    return str(request.param)


def test_memory_is_read_on_the_interpreters_that_we_support() -> None:
    assert sys.version_info[:2] in token_ids._LAYOUTS
    assert token_ids._LAYOUT == token_ids._LAYOUTS[sys.version_info[:2]]


@given(st.lists(TOKENS, max_size=50))
def test_a_list_becomes_its_array(tokens: list[int]) -> None:
    found = token_array(tokens)
    assert found.dtype == np.uint32
    assert found.tolist() == tokens


@pytest.mark.parametrize("kind", [list, tuple, type("Derived", (list,), {})])
def test_any_sequence_becomes_an_array(way: str, kind: Any) -> None:
    assert token_array(kind(EDGES)).tolist() == EDGES
    assert token_array(kind()).tolist() == []


@pytest.mark.parametrize("item", [True, np.uint32(7), np.int64(2**31), HTTPStatus.OK])
def test_what_stands_for_an_int_counts_as_one(way: str, item: Any) -> None:
    assert token_array([1, item, 2]).tolist() == [1, int(item), 2]


@pytest.mark.parametrize("item", [-1, -(2**40), MAX_TOKEN_ID + 1, 2**70, 1.5, None, "1", [1]])
def test_what_is_no_token_id_is_named(way: str, item: Any) -> None:
    with pytest.raises(ValueError, match=r"token id 2 is .*; it must be an int from 0 to"):
        token_array([5, 6, item, item])


def test_another_layout_than_the_known_one_is_not_read() -> None:
    wrong = token_ids._Layout(zero=5, one_digit=3)
    assert not token_ids._is_proven(wrong)


def test_a_list_that_is_no_longer_so_long_is_not_read() -> None:
    layout = token_ids._LAYOUT
    assert layout is not None
    tokens = np.empty(3, np.uint32)
    ids = [1, 2]
    assert not token_ids._read(id(ids), id(int), layout.zero, layout.one_digit, tokens)


def test_a_list_that_another_thread_changes_gives_one_of_its_states() -> None:
    ids = [1] * 5000
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            ids.extend([2**29] * 5000)
            del ids[5000:]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            found = token_array(ids)
            assert len(found) in {5000, 10000}
            assert (found[:5000] == 1).all()
            assert (found[5000:] == 2**29).all()
    finally:
        is_over.set()
        thread.join()
