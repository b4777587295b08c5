"""The layers that the bench of dispatch measures are what it says."""

from itertools import pairwise

import numpy as np
import pytest

from tests.bench.dispatch_layers import Popularity, Setting


@pytest.mark.parametrize("popularity", ["uniform", "zipf"])
@pytest.mark.parametrize("copies", [1.0, 1.25, 2.0])
def test_each_expert_has_a_copy_and_none_has_two_on_one_host(
    popularity: Popularity, copies: float
) -> None:
    expert_map = Setting(64, 8, 8, copies, popularity).expert_map
    expert_map.check_invariants()
    assert expert_map.is_covering
    assert expert_map.num_slots == 64 * copies
    for first, end in pairwise(expert_map.host_to_first_slot.tolist()):
        held = expert_map.physical_to_logical[0, first:end]
        assert len(np.unique(held)) == len(held)


def test_what_is_asked_most_has_most_copies() -> None:
    setting = Setting(64, 8, 8, 2.0, "zipf")
    (num_copies,) = setting.expert_map.num_copies
    by_chance = num_copies[np.argsort(-setting.chances)].tolist()
    assert (by_chance[0], by_chance[-1]) == (8, 1)
    assert by_chance == sorted(by_chance, reverse=True)


def test_a_token_has_each_of_its_experts_once_and_asks_by_popularity() -> None:
    setting = Setting(16, 4, 2, 1.0, "zipf")
    ids = setting.topk_ids(500, seed=1)
    assert ids.shape == (500, 4)
    assert all(len(set(token)) == 4 for token in ids.tolist())
    most = np.argmax(np.bincount(ids.ravel(), minlength=16))
    assert most == np.argmax(setting.chances)
