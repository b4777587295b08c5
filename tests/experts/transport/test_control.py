"""Frames about slots, as they are written and read."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport.control import (
    ASK,
    DONE,
    FOLLOW,
    ORDER,
    ORDERED,
    REPORT,
    TABLE,
    Order,
    Ordered,
    Outcome,
    ask_frame,
    done_frame,
    follow_frame,
    kind_of,
    order_frame,
    ordered_frame,
    read_done,
    read_order,
    read_ordered,
    read_report,
    read_table,
    report_frame,
    table_frame,
)
from experts.transport.errors import BadFrameError
from experts.types import HostId

_HELD = np.array([[0, 1, 2]], np.int16)


def a_report(counts: NDArray[np.int64], table: SlotTable) -> HostReport:
    return HostReport(
        HostId("a"), table, counts[0], counts[1], 2e-5, 1e-7, 0.001, 0.25, 2, 9, is_leaving=True
    )


def test_each_frame_says_what_it_is() -> None:
    table = SlotTable(7, np.array([[0, -1]], np.int16))
    frames = (
        follow_frame(),
        table_frame(table),
        done_frame(7),
        ask_frame(),
        report_frame(a_report(np.zeros((2, 1, 3), np.int64), table)),
        order_frame(Order(3, np.zeros((0, 3), np.int32))),
        ordered_frame(Ordered(3, ())),
    )
    kinds = [FOLLOW, TABLE, DONE, ASK, REPORT, ORDER, ORDERED]
    assert [kind_of(memoryview(frame)) for frame in frames] == kinds
    assert len(set(kinds)) == len(kinds)
    assert read_done(memoryview(done_frame(2**64 - 1))) == 2**64 - 1


@given(
    sizes=st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
    data=st.data(),
)
def test_a_report_is_read_as_it_was_written(
    sizes: tuple[int, int, int], data: st.DataObject
) -> None:
    num_layers, num_slots, num_experts = sizes
    numbers = [
        data.draw(st.integers(0, 2**63 - 1)) for _ in range(2 * num_layers * num_experts)
    ]
    counts = np.array(numbers, np.int64).reshape(2, num_layers, num_experts)
    held = np.arange(-1, num_layers * num_slots - 1, dtype=np.int16)
    table = SlotTable(5, held.reshape(num_layers, num_slots))
    sent = a_report(counts, table)
    found = read_report(memoryview(report_frame(sent)))
    assert found.tokens.tolist() == counts[0].tolist()
    assert found.activations.tolist() == counts[1].tolist()
    assert (found.table.version, found.table.held.tolist()) == (5, table.held.tolist())
    alike = replace(found, tokens=sent.tokens, activations=sent.activations, table=sent.table)
    assert vars(alike) == vars(sent)


@given(
    number=st.integers(0, 2**64 - 1),
    moves=st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3), max_size=3),
)
def test_an_order_is_read_as_it_was_written(
    number: int, moves: list[tuple[int, int, int]]
) -> None:
    array = np.array(moves, np.int32).reshape(len(moves), 3)
    found = read_order(memoryview(order_frame(Order(number, array))))
    assert (found.number, found.moves.tolist()) == (number, array.tolist())


@given(st.integers(0, 2**64 - 1), st.lists(st.sampled_from(Outcome), max_size=3))
def test_the_end_of_an_order_is_read_as_it_was_written(
    number: int, outcomes: list[Outcome]
) -> None:
    sent = Ordered(number, tuple(outcomes))
    assert read_ordered(memoryview(ordered_frame(sent))) == sent


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


@pytest.mark.parametrize("frame", [b"", b"\1\0\3", b"\2\0\3\0\0\0\0\0"])
def test_a_frame_of_no_kind_is_refused(frame: bytes) -> None:
    with pytest.raises(BadFrameError):
        kind_of(memoryview(frame))


def whole_frames() -> list[tuple[Callable[[memoryview], object], bytes]]:
    table = SlotTable(1, _HELD)
    report = a_report(np.ones((2, 1, 2), np.int64), table)
    return [
        (read_done, done_frame(1)),
        (read_table, table_frame(table)),
        (read_report, report_frame(report)),
        (read_order, order_frame(Order(1, np.ones((2, 3), np.int32)))),
        (read_ordered, ordered_frame(Ordered(1, (Outcome.DONE,)))),
    ]


@given(which=st.integers(0, 4), data=st.data())
def test_a_changed_byte_is_read_or_refused(which: int, data: st.DataObject) -> None:
    read, frame = whole_frames()[which]
    changed = bytearray(frame)
    at = data.draw(st.integers(8, len(frame) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFrameError):
        read(memoryview(changed))


@given(which=st.integers(0, 4), data=st.data())
def test_a_frame_that_is_cut_short_is_refused_or_shorter(
    which: int, data: st.DataObject
) -> None:
    read, frame = whole_frames()[which]
    short = frame[: data.draw(st.integers(0, len(frame) - 1))]
    try:
        found = read(memoryview(short))
    except BadFrameError:
        return
    # Only lists end where the frame does.
    assert isinstance(found, Order | Ordered)
    assert found.number == 1


def test_a_report_that_counts_below_nothing_is_refused() -> None:
    report = a_report(-np.ones((2, 1, 2), np.int64), SlotTable(1, _HELD))
    with pytest.raises(BadFrameError, match="below 0"):
        read_report(memoryview(report_frame(report)))
