"""A model's KV-cache groups, from vLLM's to those that prefixes are looked up by.

vLLM puts layers into groups of equal size, so several of its groups may cache alike:
Gemma-3 with 5 sliding layers to each full one has 5 sliding groups. A prefix is usable
where all of them have it, so they are *members* of one group here, which has a block
where each member has it. Lookup and index then see two groups in place of six.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.types import BlockGroup, GroupKind

# A chunk of chunked local attention is shorter than all before it, and a window of
# unknown length is too: who has all of it has enough.
_KINDS: Mapping[str, GroupKind] = {
    "full_attention": "full",
    "mla_attention": "full",
    "sink_full_attention": "full",
    "chunked_local_attention": "full",
    "sliding_window": "sliding_window",
    "sliding_window_mla": "sliding_window",
    "mamba": "recurrent",
}


@dataclass(frozen=True)
class GroupLayout:
    """The groups of one engine.

    `member_to_group[i]` is the place in `groups` of vLLM's group i. A model that has a
    group of unknown kind has no groups: none of its prefixes can be named.
    """

    groups: tuple[BlockGroup, ...]  # [num_groups]
    member_to_group: tuple[int, ...]  # [num_members]

    @property
    def num_members(self) -> tuple[int, ...]:
        """vLLM's groups in each of ours. Shape: [num_groups]."""
        return tuple(map(self.member_to_group.count, range(len(self.groups))))

    def check_invariants(self) -> None:
        """Each group has a member, and no two are alike."""
        assert set(self.member_to_group) == set(range(len(self.groups)))
        assert len(set(self.groups)) == len(self.groups)


def group_layout(metadata: Sequence[Mapping[str, Any]]) -> GroupLayout:
    """The layout of what `EngineCore.get_kv_cache_group_metadata` says, in its order."""
    groups: list[BlockGroup] = []
    places = []
    for member in metadata:
        group = _to_group(member)
        if group is None:
            return GroupLayout((), ())
        if group not in groups:
            groups.append(group)
        places.append(groups.index(group))
    return GroupLayout(tuple(groups), tuple(places))


def _to_group(member: Mapping[str, Any]) -> BlockGroup | None:
    kind = _KINDS.get(member["kind"])
    if kind is None:
        return None
    window = member["sliding_window"] if kind == "sliding_window" else None
    if kind == "sliding_window" and window is None:
        kind = "full"
    return BlockGroup(kind, member["block_size"], window)
