"""What becomes of the events of one rank."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.types import ChainContext, Tier
from deployments.engine.kv_events.layout import GroupLayout
from deployments.engine.kv_events.messages import decode_batch
from deployments.engine.kv_events.translator import Translator
from deployments.engine.kv_events.types import TIERS, EventCounters
from tests.builders.kv_events import (
    CLEARED,
    FULL,
    MODEL,
    ONE_GROUP,
    RECURRENT,
    SLIDING,
    Event,
    batch,
    removed,
    stored,
)
from tests.reference.kv_events import SlowCache, chain

# Two sliding members that cache alike, one recurrent, and one of full attention last,
# as in vLLM's own order for such a model.
HYBRID = GroupLayout((SLIDING, RECURRENT, FULL), (0, 0, 1, 2))
PROMPT = [1, 2, 3, 4, 5, 6]


class Watched:
    """A translator, with what it complained of."""

    def __init__(self, layout: GroupLayout = ONE_GROUP, **settings: Any) -> None:
        self.counters = EventCounters()
        self.complaints: list[str] = []
        self.translator = Translator(
            MODEL, layout, self.counters, self.complaints.append, **settings
        )

    def apply(self, *events: Event) -> None:
        decoded, complaints = decode_batch(batch(events))
        self.complaints += complaints
        self.translator.apply(decoded)
        self.translator.check_invariants()

    def held(self, tier: Tier = "device") -> list[int]:
        return sorted(self.translator.current_hashes(tier).tolist())

    def changes(self, tier: Tier = "device") -> tuple[list[int], list[int]]:
        stored, removed = self.translator.take_changes(tier)
        return sorted(stored.tolist()), sorted(removed.tolist())


def ours(
    tokens: list[int], layout: GroupLayout = ONE_GROUP, place: int = 0, **context: str
) -> list[int]:
    return chain(tokens, ChainContext(MODEL, **context), layout.groups, place)


def test_blocks_have_the_hashes_of_their_whole_prefix() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:2]))
    watched.apply(stored(PROMPT, begin=1))
    assert watched.held() == sorted(ours(PROMPT))
    assert watched.changes() == (sorted(ours(PROMPT)), [])
    assert watched.changes() == ([], [])


def test_adapter_and_salt_make_other_hashes_of_the_same_tokens() -> None:
    watched = Watched()
    watched.apply(
        stored(PROMPT, adapter="a"), stored(PROMPT, salt="s"), stored(PROMPT, 0, "s", "a")
    )
    watched.apply(stored([*PROMPT, 7, 8], begin=3, salt="s", adapter="a"))
    expected = [
        *ours(PROMPT, adapter="a"),
        *ours(PROMPT, cache_salt="s"),
        *ours([*PROMPT, 7, 8], adapter="a", cache_salt="s"),
    ]
    assert watched.held() == sorted(expected)


def test_a_block_is_held_until_its_last_copy_goes() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:2]), stored(PROMPT[:2]))
    watched.changes()
    watched.apply(removed(PROMPT[:2]))
    assert watched.changes() == ([], [])
    watched.apply(removed(PROMPT[:2]))
    assert watched.changes() == ([], ours(PROMPT[:2]))
    assert watched.held() == []


def test_what_is_stored_and_removed_at_once_is_removed() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:2]), removed(PROMPT[:2]))
    assert watched.changes() == ([], ours(PROMPT[:2]))
    watched.apply(stored(PROMPT[:2]))
    watched.changes()
    watched.apply(removed(PROMPT[:2]), stored(PROMPT[:2]))
    assert watched.changes() == (ours(PROMPT[:2]), [])


def test_a_prefix_goes_on_from_a_parent_that_is_gone() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:4]), removed(PROMPT[:2]), removed(PROMPT[:4]))
    watched.apply(stored(PROMPT, begin=2))
    assert watched.held() == ours(PROMPT)[2:]


def test_names_of_what_is_gone_are_forgotten_longest_gone_first() -> None:
    watched = Watched(max_idle=1)
    watched.apply(stored([1, 2]), stored([3, 4]))
    watched.apply(removed([1, 2]), removed([3, 4]))
    watched.apply(stored([1, 2, 5, 6], begin=1), stored([3, 4, 5, 6], begin=1))
    assert watched.held() == ours([3, 4, 5, 6])[1:]
    assert watched.counters.num_left_out == 1


def test_a_group_holds_a_block_where_all_of_its_members_have_it() -> None:
    watched = Watched(HYBRID)
    watched.apply(stored(PROMPT, group_idx=0))
    assert watched.held() == []
    watched.apply(stored(PROMPT, group_idx=1))
    assert watched.held() == sorted(ours(PROMPT, HYBRID, 0))
    watched.changes()
    watched.apply(removed(PROMPT, group_idx=0))
    assert watched.changes() == ([], ours(PROMPT, HYBRID, 0)[2:])


def test_a_groups_kept_blocks_are_known_by_a_dense_group_beside_it() -> None:
    watched = Watched(HYBRID)
    # The event of a recurrent group comes first, and tells neither salt nor position.
    watched.apply(
        stored(PROMPT, salt="s", group_idx=2, kept=[2]),
        stored(PROMPT, salt="s", group_idx=3),
    )
    expected = [
        *ours(PROMPT, HYBRID, 1, cache_salt="s")[2:],
        *ours(PROMPT, HYBRID, 2, cache_salt="s"),
    ]
    assert watched.held() == sorted(expected)
    assert watched.counters.num_left_out == 0


def test_a_range_of_which_nothing_is_kept_changes_nothing() -> None:
    watched = Watched(HYBRID)
    watched.apply(stored(PROMPT, group_idx=2, kept=[]))
    assert (watched.held(), watched.complaints) == ([], [])


def test_part_of_a_block_is_left_out() -> None:
    watched = Watched()
    part = stored(PROMPT[:2]) | {"block_size": 1, "token_ids": [1]}
    watched.apply(part, removed(PROMPT[:2]))
    assert (watched.held(), watched.counters.num_left_out) == ([], 1)


def test_blocks_with_an_image_are_left_out_with_all_that_follow() -> None:
    watched = Watched()
    keys = [None, [["image", 3]], None]
    watched.apply(stored(PROMPT, extra_keys=keys))
    watched.apply(stored([*PROMPT, 7, 8], begin=3))
    assert watched.held() == ours(PROMPT)[:1]
    assert watched.counters.num_left_out == 3


@pytest.mark.parametrize("keys", [[b"digest"], ["salt", b"digest"], ["salt", "more"]])
def test_a_prefix_of_unknown_context_is_left_out(keys: list[object]) -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:2], extra_keys=[keys]))
    assert (watched.held(), watched.counters.num_left_out) == ([], 1)


def test_a_prefix_without_a_known_parent_is_left_out() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT, begin=1))
    assert (watched.held(), watched.counters.num_left_out) == ([], 2)


def test_the_slower_tier_names_its_blocks_as_the_device_did() -> None:
    watched = Watched()
    bare = {"medium": "CPU", "token_ids": [], "block_size": 0, "extra_keys": None}
    watched.apply(stored(PROMPT, salt="s"), removed(PROMPT, salt="s"))
    watched.apply(stored(PROMPT, salt="s") | bare)
    assert watched.held("host") == sorted(ours(PROMPT, cache_salt="s"))
    watched.apply(removed(PROMPT, salt="s", medium="CPU"))
    assert watched.held("host") == sorted(ours(PROMPT, cache_salt="s")[:2])
    watched.apply(stored([9, 9]) | bare)
    assert watched.counters.num_left_out == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"medium": "STORAGE"},
        {"medium": None},
        {"locality": "REMOTE"},
        {"group_idx": None},
        {"group_idx": 7},
        {"group_idx": -1},
    ],
)
def test_what_no_router_looks_at_is_left_out(fields: dict[str, Any]) -> None:
    watched = Watched()
    watched.apply(stored(PROMPT[:2]))
    watched.apply(stored(PROMPT, **fields), removed(PROMPT[:2], **fields))
    assert watched.held() == ours(PROMPT[:2])
    assert watched.counters.num_left_out == 4


def test_clearing_empties_all_tiers_and_keeps_the_names() -> None:
    watched = Watched()
    watched.apply(stored(PROMPT), stored(PROMPT, medium="CPU"))
    watched.apply(CLEARED, stored(PROMPT, begin=2))
    assert watched.translator.take_clear()
    assert not watched.translator.take_clear()
    assert (watched.held(), watched.held("host")) == (ours(PROMPT)[2:], [])
    assert watched.changes() == (ours(PROMPT)[2:], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": [-1, 2, 3, 4, 5, 6]},
        {"token_ids": [2**40, 2, 3, 4, 5, 6]},
        {"extra_keys": [None]},
    ],
)
def test_an_event_that_makes_no_sense_is_passed_over(fields: dict[str, Any]) -> None:
    watched = Watched()
    watched.apply(stored(PROMPT, **fields), stored([7, 7]))
    assert (len(watched.complaints), watched.held()) == (1, ours([7, 7]))


def test_hashes_may_be_numbers() -> None:
    watched = Watched()
    numbers = {"block_hashes": [2**64 - 1, 7, 8]}
    watched.apply(stored(PROMPT) | numbers, removed(PROMPT) | {"block_hashes": [7]})
    assert watched.held() == sorted([ours(PROMPT)[0], ours(PROMPT)[2]])


TOKENS = st.lists(st.integers(0, 1), min_size=2, max_size=8).map(
    lambda tokens: tokens[: len(tokens) // 2 * 2]
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Anything vLLM may say of a hybrid model, and some things that it does not."""
    kind = draw(st.sampled_from(["store", "store", "store", "remove", "remove", "clear"]))
    if kind == "clear":
        return CLEARED if draw(st.integers(0, 3)) == 0 else removed([0, 0])
    tokens = draw(TOKENS)
    fields = {
        "group_idx": draw(st.integers(0, 3)),
        "medium": draw(st.sampled_from(["GPU", "GPU", "GPU", "CPU", "STORAGE"])),
        "locality": draw(st.sampled_from([None, None, "LOCAL", "REMOTE"])),
    }
    salt, adapter = draw(st.sampled_from([None, "s"])), draw(st.sampled_from([None, "a"]))
    if kind == "remove":
        return removed(tokens, salt, adapter, **fields)
    begin = draw(st.integers(0, len(tokens) // 2 - 1))
    if draw(st.booleans()):
        fields["kept"] = sorted(draw(st.sets(st.integers(begin, len(tokens) // 2 - 1))))
    return stored(tokens, begin, salt, adapter, **fields)


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(st.lists(events(), max_size=6), max_size=6))
def test_whatever_comes_the_slow_twin_holds_the_same(batches: list[list[Event]]) -> None:
    watched, slow = Watched(HYBRID), SlowCache(MODEL, HYBRID)
    mirror: dict[Tier, set[int]] = {tier: set() for tier in TIERS}
    for each in batches:
        watched.apply(*each)
        slow.apply(each)
        is_cleared = watched.translator.take_clear()
        for tier in watched.translator.tiers:
            if is_cleared:
                mirror[tier].clear()
            gained, lost = watched.translator.take_changes(tier)
            mirror[tier] = (mirror[tier] | set(gained.tolist())) - set(lost.tolist())
        for tier in TIERS:
            assert set(watched.held(tier)) == mirror[tier] == slow.held(tier)
    assert watched.complaints == []
