"""Memory in pages."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.drafts.model.kv_pages import PAGE_TOKENS, KvPages, num_pages_for

PAGE_BYTES = 2 * 3 * PAGE_TOKENS * (2 * 4) * 2
"""Keys and values of 3 layers, 2 heads of 4 numbers, 2 bytes each."""


def kv_pages(num_bytes: int) -> KvPages:
    return KvPages(3, (2, 4), torch.bfloat16, num_bytes)


def test_there_are_as_many_pages_as_fit_and_the_first_is_nobodys() -> None:
    pages = kv_pages(7 * PAGE_BYTES + 1)
    assert (pages.num_pages, pages.num_free) == (7, 6)
    assert pages.keys.shape == pages.values.shape == (3, 7 * PAGE_TOKENS, 2, 4)
    assert pages.keys.nbytes + pages.values.nbytes == 7 * PAGE_BYTES
    assert kv_pages(0).num_pages == 2


def test_a_page_is_taken_when_the_one_before_is_full() -> None:
    assert [num_pages_for(n) for n in (0, 1, PAGE_TOKENS, PAGE_TOKENS + 1)] == [0, 1, 1, 2]


def test_where_there_is_too_little_room_nothing_is_taken() -> None:
    pages = kv_pages(4 * PAGE_BYTES)
    held: list[int] = []
    assert pages.grow(held, 2 * PAGE_TOKENS)
    before = list(held)
    assert not pages.grow(held, 5 * PAGE_TOKENS)
    assert (held, pages.num_free) == (before, 1)
    assert pages.grow(held, 1)
    assert held == before


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6 * PAGE_TOKENS)), max_size=20))
def test_each_page_is_somebodys_or_free(steps: list[tuple[int, int]]) -> None:
    pages = kv_pages(6 * PAGE_BYTES)
    held: list[list[int]] = [[], [], []]
    for who, num_tokens in steps:
        if not num_tokens:
            pages.give_back(held[who])
            assert held[who] == []
        elif pages.grow(held[who], num_tokens):
            assert len(held[who]) * PAGE_TOKENS >= num_tokens
        pages.check_invariants(held)
