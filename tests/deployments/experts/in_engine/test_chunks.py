"""Parcels cut into frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.experts.in_engine.client.chunks import chunks, max_pairs
from experts.transport.messages import AnswerHeader, RequestHeader, RowType, Status
from router.dispatch.types import Parcel


def ints(values: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(values, np.int32)


@st.composite
def parcels(draw: st.DrawFn) -> Parcel:
    """As the planner makes them: sorted by slot, then by token."""
    found = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1))
    tokens = sorted({token for _, token in found})
    ordered = sorted(found)
    return Parcel(
        rows=ints(tokens),
        pair_rows=ints([tokens.index(token) for _, token in ordered]),
        pair_slots=ints([slot for slot, _ in ordered]),
        pairs=ints(draw(st.permutations(range(len(ordered))))),
    )


@given(parcels(), st.integers(1, 8))
def test_parts_together_are_the_parcel(parcel: Parcel, most: int) -> None:
    parts = list(chunks(parcel, most))
    assert all(0 < len(part.pairs) <= most for part in parts)
    for part in parts:
        assert len(set(part.rows.tolist())) == len(part.rows) <= len(part.pairs)
    whole = [
        (int(parcel.rows[row]), int(slot), int(pair))
        for row, slot, pair in zip(
            parcel.pair_rows, parcel.pair_slots, parcel.pairs, strict=True
        )
    ]
    cut = [
        (int(part.rows[row]), int(slot), int(pair))
        for part in parts
        for row, slot, pair in zip(part.pair_rows, part.pair_slots, part.pairs, strict=True)
    ]
    assert cut == whole
    assert {part.pair_rows.dtype for part in parts} == {np.dtype(np.int32)}


@given(st.integers(300, 10_000), st.integers(1, 32))
def test_the_most_pairs_fit_either_way(max_frame_bytes: int, hidden_size: int) -> None:
    pairs = max_pairs(max_frame_bytes, hidden_size)
    float32 = RowType.FLOAT32
    request = RequestHeader(1, 0, 1, pairs, pairs, hidden_size, float32)
    answer = AnswerHeader(1, Status.OK, pairs, hidden_size, float32, 0.0, 0.0)
    assert request.num_bytes <= max_frame_bytes
    assert answer.num_bytes <= max_frame_bytes


def test_a_frame_without_room_for_a_row_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        max_pairs(1024, 4096)
