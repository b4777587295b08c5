"""Frames about slots, as they are written and read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.tier_view import SlotTable
from experts.transport.control import (
    DONE,
    FOLLOW,
    TABLE,
    done_frame,
    follow_frame,
    kind_of,
    read_done,
    read_table,
    table_frame,
)
from experts.transport.errors import BadFrameError


def test_each_frame_says_what_it_is() -> None:
    table = SlotTable(7, np.array([[0, -1]], np.int16))
    frames = (follow_frame(), table_frame(table), done_frame(7))
    assert [kind_of(memoryview(frame)) for frame in frames] == [FOLLOW, TABLE, DONE]
    assert read_done(memoryview(done_frame(2**64 - 1))) == 2**64 - 1


@given(
    version=st.integers(0, 2**64 - 1),
    num_layers=st.integers(0, 3),
    num_slots=st.integers(0, 3),
    data=st.data(),
)
def test_a_table_is_read_as_it_was_written(
    version: int, num_layers: int, num_slots: int, data: st.DataObject
) -> None:
    numbers = [data.draw(st.integers(-1, 300)) for _ in range(num_layers * num_slots)]
    held = np.array(numbers, np.int16).reshape(num_layers, num_slots)
    found = read_table(memoryview(table_frame(SlotTable(version, held))))
    assert (found.version, found.held.tolist()) == (version, held.tolist())
    assert found.held.shape == held.shape
    assert found.held.dtype == np.int16


@given(
    st.binary(max_size=40)
    | st.binary(max_size=30).map(lambda end: table_frame(SlotTable(1, _HELD))[:24] + end)
)
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    for read in (read_table, read_done):
        try:
            read(memoryview(frame))
        except BadFrameError:
            continue
        assert len(frame) in (16, 24 + 2 * _HELD.size) or read is read_table


_HELD = np.array([[0, 1, 2]], np.int16)


@pytest.mark.parametrize("frame", [b"", b"\1\0\3", b"\2\0\3\0\0\0\0\0"])
def test_a_frame_of_no_kind_is_refused(frame: bytes) -> None:
    with pytest.raises(BadFrameError):
        kind_of(memoryview(frame))
