"""Deltas that travel together."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.deltas import Coalescer, join
from deployments.types import Delta, TokenLogprob, TokenLogprobs


def delta(index: int, number: int, finish: bool = False) -> Delta:
    """One token, its number its id."""
    chosen = TokenLogprob(number, -1.0, str(number), 1)
    return Delta(
        index=index,
        text=f"{number},",
        token_ids=[number],
        finish_reason="stop" if finish else None,
        logprobs=(TokenLogprobs(chosen, ()),),
        num_cached_tokens=7,
    )


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 9), st.sets(st.integers(0, 2)))
def test_joined_or_not_an_output_is_the_same(
    indexes: list[int], num_tokens: int, unfinished: set[int]
) -> None:
    deltas = [delta(index, number) for number, index in enumerate(indexes)]
    deltas += [delta(i, 100 + i, finish=i not in unfinished) for i in range(3)]
    coalescer = Coalescer(num_tokens)
    due = [coalescer.add(d, is_last=d is deltas[-1]) for d in deltas]
    given_out = [d for d in due if d is not None]
    for index in {0, 1, 2} - unfinished | {2}:
        pieces = [d for d in given_out if d.index == index]
        assert join(pieces) == join([d for d in deltas if d.index == index])
        assert all(len(d.token_ids) >= num_tokens for d in pieces[:-1])


def test_nothing_is_held_back_that_is_read_piece_by_piece() -> None:
    coalescer = Coalescer(0)
    empty = Delta(index=0, text="", token_ids=[])
    assert coalescer.add(empty, is_last=False) is empty
