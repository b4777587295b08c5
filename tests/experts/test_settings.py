"""The section of the configuration: limits that fit, and slots by factor."""

import pytest
from pydantic import ValidationError

from experts.settings import ExpertsSection, RebalanceSection


def test_a_fleet_of_fixed_size_needs_one_number() -> None:
    section = ExpertsSection(placement="service", num_hosts=3)
    assert (section.fewest, section.num_hosts, section.most) == (3, 3, 3)
    assert section.rebalance == RebalanceSection(split_tokens=None)


@pytest.mark.parametrize(("fewest", "most"), [(4, None), (None, 2), (4, 5), (1, 2)])
def test_the_number_of_hosts_is_within_its_limits(fewest: int | None, most: int | None) -> None:
    with pytest.raises(ValidationError, match="min_hosts <= num_hosts <= max_hosts"):
        ExpertsSection(num_hosts=3, min_hosts=fewest, max_hosts=most)


@pytest.mark.parametrize(
    ("given", "num_slots"),
    [
        ({"num_hosts": 2}, 10),
        ({"num_hosts": 4, "min_hosts": 2}, 10),
        ({"num_hosts": 4}, 5),
        ({"num_hosts": 3, "copies_factor": 1.0}, 6),
        ({"num_hosts": 1, "copies_factor": 2.0}, 16),
        ({"num_hosts": 2, "slots_per_host": 12}, 12),
        ({"num_hosts": 2, "slots_per_host": 99}, 16),
    ],
)
def test_slots_suffice_for_the_fewest_hosts(given: dict[str, int], num_slots: int) -> None:
    section = ExpertsSection.model_validate(given)
    assert section.num_slots(num_experts=16) == num_slots
