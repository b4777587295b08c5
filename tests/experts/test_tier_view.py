"""What an engine makes of the words of its expert hosts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.tier_view import SlotTable, TierView
from experts.types import EMPTY_SLOT, HostId
from infra.errors import ConfigError

A, B = HostId("a"), HostId("b")


def table(version: int, *rows: list[int]) -> SlotTable:
    return SlotTable(version, np.array(rows, np.int16))


def test_the_map_has_the_slots_of_all_hosts_side_by_side() -> None:
    view = TierView(num_layers=2, num_experts=3)
    assert view.announced(A, table(1, [0, 1], [2, 0]))
    assert view.announced(B, table(1, [2], [1]))
    view.check_invariants()
    assert view.map.hosts == (A, B)
    assert view.map.physical_to_logical.tolist() == [[0, 1, 2], [2, 0, 1]]
    assert view.map.is_covering
    assert view.map.version == 2


def test_a_slot_that_is_being_filled_holds_nothing() -> None:
    view = TierView(1, 3)
    view.announced(A, table(1, [0, 1]))
    view.announced(A, table(2, [0, EMPTY_SLOT]))
    assert view.map.num_copies.tolist() == [[1, 0, 0]]
    view.announced(A, table(3, [0, 2]))
    assert view.map.num_copies.tolist() == [[1, 0, 1]]


def test_an_older_word_of_a_host_changes_nothing() -> None:
    view = TierView(1, 3)
    view.announced(A, table(2, [0, 2]))
    before = view.map
    assert not view.announced(A, table(1, [0, 1]))
    assert not view.announced(A, table(2, [0, 1]))
    assert view.map is before


def test_a_lost_host_takes_its_copies_along() -> None:
    view = TierView(1, 2)
    view.announced(A, table(1, [0]))
    view.announced(B, table(1, [1]))
    assert view.lost(A)
    assert not view.lost(A)
    view.check_invariants()
    assert (view.map.hosts, view.map.num_copies.tolist()) == ((B,), [[0, 1]])


@pytest.mark.parametrize(
    "wrong",
    [table(1, [0], [0]), table(1, [2]), table(1, [-2]), SlotTable(1, np.array([0], np.int16))],
)
def test_a_host_of_another_model_is_refused(wrong: SlotTable) -> None:
    view = TierView(1, 2)
    with pytest.raises(ConfigError, match="slots of another model"):
        view.announced(A, wrong)
    assert view.map.hosts == ()


def test_a_host_cannot_change_its_number_of_slots() -> None:
    view = TierView(1, 2)
    view.announced(A, table(1, [0]))
    with pytest.raises(ConfigError, match="number of slots"):
        view.announced(A, table(2, [0, 1]))


Word = tuple[HostId, int | None, list[int]]
words = st.tuples(
    st.sampled_from([A, B]),
    st.none() | st.integers(1, 4),
    st.lists(st.integers(EMPTY_SLOT, 1), min_size=2, max_size=2),
)


@given(st.lists(words, max_size=12))
def test_the_map_is_always_that_of_the_latest_words(said: list[Word]) -> None:
    view, latest = TierView(1, 2), dict[HostId, tuple[int, list[int]]]()
    for host, version, held in said:
        if version is None:
            assert view.lost(host) == (latest.pop(host, None) is not None)
        elif view.announced(host, table(version, held)):
            assert version > latest.get(host, (0, held))[0]
            latest[host] = (version, held)
        else:
            assert version <= latest[host][0]
        view.check_invariants()
        assert {h: t.held[0].tolist() for h, t in view.tables.items()} == {
            h: held for h, (_, held) in latest.items()
        }
