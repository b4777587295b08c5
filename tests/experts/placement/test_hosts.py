"""Whether the hosts are enough, against placements tried one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.placement.hosts import check_room, fewest_hosts, possible_copies
from infra.errors import ConfigError
from tests.experts.placement.builders import host
from tests.reference.placement import is_possible

SIZES = st.lists(st.integers(0, 4), max_size=3)


def test_the_worked_example_of_the_module() -> None:
    assert possible_copies([6, 6, 3], 8, wanted=2) == 1
    assert possible_copies([6, 6, 3, 3], 8, wanted=2) == 2
    assert fewest_hosts([3, 6, 6, 3], 8) == 2
    assert fewest_hosts([3, 6, 6, 3], 8, min_copies=2) == 4


@given(sizes=SIZES, num_experts=st.integers(1, 4), wanted=st.integers(1, 3))
def test_so_many_copies_are_possible_and_no_more(
    sizes: list[int], num_experts: int, wanted: int
) -> None:
    found = possible_copies(sizes, num_experts, wanted)
    expected = [c for c in range(wanted + 1) if is_possible(num_experts, sizes, c)]
    assert found == max(expected)


@given(sizes=SIZES, num_experts=st.integers(1, 4), min_copies=st.integers(1, 2))
def test_with_one_host_less_some_expert_has_too_few(
    sizes: list[int], num_experts: int, min_copies: int
) -> None:
    if not is_possible(num_experts, sizes, min_copies):
        with pytest.raises(ConfigError):
            fewest_hosts(sizes, num_experts, min_copies)
        return
    count = fewest_hosts(sizes, num_experts, min_copies)
    largest = sorted(sizes, reverse=True)
    assert is_possible(num_experts, largest[:count], min_copies)
    assert not is_possible(num_experts, largest[: count - 1], min_copies)


@pytest.mark.parametrize(
    ("sizes", "min_copies", "message"),
    [
        (
            [3, 3],
            1,
            "2 expert hosts have room for 6 experts a layer; each of 8 needs 8: give them at "
            "least 4 slots a layer each, or start at least 3 hosts of 3 slots",
        ),
        (
            [9],
            2,
            "1 expert hosts have room for 8 experts a layer; 2 copies of each on different "
            "hosts of 8 needs 16: give them at least 8 slots a layer each, or start at least "
            "2 hosts of 8 slots",
        ),
        (
            [],
            1,
            "0 expert hosts have room for 0 experts a layer; each of 8 needs 8 slots: start "
            "expert hosts",
        ),
    ],
)
def test_the_error_says_how_many_are_needed(
    sizes: list[int], min_copies: int, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        fewest_hosts(sizes, 8, min_copies)
    assert raised.value.message == message


def test_a_leaving_host_has_no_room() -> None:
    check_room([host("a", 2), host("b", 2)], 4)
    with pytest.raises(ConfigError):
        check_room([host("a", 2), host("b", 2, is_leaving=True)], 4)
