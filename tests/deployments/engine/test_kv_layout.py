"""From vLLM's KV-cache groups to those that prefixes are looked up by."""

from typing import Any

import msgspec
import pytest

from cache.types import BlockGroup
from deployments.engine.kv_events.layout import GroupLayout, group_layout


def member(kind: str, block_size: int = 16, window: int | None = None) -> dict[str, Any]:
    return {"group_idx": 0, "kind": kind, "block_size": block_size, "sliding_window": window}


def test_members_that_cache_alike_are_one_group() -> None:
    # As of Gemma-3, with 5 sliding layers to each full one.
    found = group_layout([member("sliding_window", 16, 512)] * 5 + [member("full_attention")])
    assert found == GroupLayout(
        (BlockGroup("sliding_window", 16, 512), BlockGroup("full", 16)), (0, 0, 0, 0, 0, 1)
    )
    assert found.num_members == (5, 1)
    found.check_invariants()


def test_groups_that_differ_in_size_or_window_stay_apart() -> None:
    found = group_layout(
        [
            member("mamba", 64),
            member("full_attention", 16),
            member("mamba", 32),
            member("sliding_window_mla", 16, 128),
            member("sliding_window", 16, 256),
            member("mla_attention", 16),
        ]
    )
    assert found.groups == (
        BlockGroup("recurrent", 64),
        BlockGroup("full", 16),
        BlockGroup("recurrent", 32),
        BlockGroup("sliding_window", 16, 128),
        BlockGroup("sliding_window", 16, 256),
    )
    assert found.member_to_group == (0, 1, 2, 3, 4, 1)


@pytest.mark.parametrize("kind", ["chunked_local_attention", "sink_full_attention"])
def test_what_needs_less_than_all_before_it_counts_as_needing_all(kind: str) -> None:
    assert group_layout([member(kind)]).groups == (BlockGroup("full", 16),)


def test_a_window_of_unknown_length_is_as_long_as_the_prefix() -> None:
    assert group_layout([member("sliding_window")]).groups == (BlockGroup("full", 16),)


def test_the_window_of_full_attention_says_nothing() -> None:
    assert group_layout([member("full_attention", 16, 512)]).groups == (BlockGroup("full", 16),)


@pytest.mark.parametrize("kind", ["unknown", "cross_attention", "colourful"])
def test_a_group_of_unknown_kind_leaves_no_groups(kind: str) -> None:
    assert group_layout([member("full_attention"), member(kind)]) == GroupLayout((), ())


def test_groups_travel_in_the_metadata_of_a_replica() -> None:
    groups = group_layout([member("full_attention"), member("sliding_window", 16, 8)]).groups
    sent = msgspec.to_builtins(groups)
    assert msgspec.convert(sent, tuple[BlockGroup, ...]) == groups
