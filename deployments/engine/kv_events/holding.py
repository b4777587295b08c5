"""What one tier of one engine holds, and what of that has changed.

vLLM does not merge equal blocks: two requests that compute the same prefix at once
store it twice, each with an event of its own, and each copy's end is one more. So
copies are counted, and a block is held by a group while each of its members has one.
"""

from collections.abc import Callable, Iterator

import numpy as np

from cache.types import BlockHash, Hashes
from deployments.engine.kv_events.layout import GroupLayout
from deployments.engine.kv_events.types import EngineHash


class Holding:
    """Blocks by the engine's hashes; changes by ours."""

    def __init__(self, layout: GroupLayout) -> None:
        self._layout = layout
        self._num_members = layout.num_members
        # By member: how many copies of a block there are, if any.
        self._copies: list[dict[EngineHash, int]] = [{} for _ in layout.member_to_group]
        # By group: how many of its members have the block, if any.
        self._spread: list[dict[EngineHash, int]] = [{} for _ in layout.groups]
        self._is_held_since: dict[BlockHash, bool] = {}

    def add(self, member: int, block: EngineHash, name: BlockHash) -> None:
        """A copy more in one of vLLM's groups."""
        copies = self._copies[member]
        copies[block] = num_copies = copies.get(block, 0) + 1
        if num_copies > 1:
            return
        group = self._layout.member_to_group[member]
        spread = self._spread[group]
        spread[block] = num_having = spread.get(block, 0) + 1
        if num_having == self._num_members[group]:
            self._is_held_since[name] = True

    def has(self, member: int, block: EngineHash) -> bool:
        """Whether there is a copy in one of vLLM's groups."""
        return block in self._copies[member]

    def remove(self, member: int, block: EngineHash, name: BlockHash) -> None:
        """A copy less of a block that is there."""
        copies = self._copies[member]
        copies[block] -= 1
        if copies[block]:
            return
        del copies[block]
        group = self._layout.member_to_group[member]
        spread = self._spread[group]
        if spread[block] == self._num_members[group]:
            self._is_held_since[name] = False
        spread[block] -= 1
        if not spread[block]:
            del spread[block]

    def take_changes(self) -> tuple[Hashes, Hashes]:
        """What is held and what no longer is, since this was asked last: as they are now.

        Shapes: [num_stored], [num_removed]; no hash is in both.
        """
        changes, self._is_held_since = self._is_held_since, {}
        stored = [name for name, is_held in changes.items() if is_held]
        removed = [name for name, is_held in changes.items() if not is_held]
        return np.array(stored, np.uint64), np.array(removed, np.uint64)

    def hashes(self, name_of: Callable[[EngineHash, int], BlockHash | None]) -> Hashes:
        """All that is held, by our names. Shape: [num_blocks]."""
        held = [
            name_of(block, group)
            for group, spread in enumerate(self._spread)
            for block, num_having in spread.items()
            if num_having == self._num_members[group]
        ]
        return np.array(held, np.uint64)

    def copies(self) -> Iterator[tuple[int, EngineHash, int]]:
        """Each block, with the group that has it and the number of copies."""
        for member, copies in enumerate(self._copies):
            group = self._layout.member_to_group[member]
            for block, num_copies in copies.items():
                yield group, block, num_copies

    def check_invariants(self) -> None:
        """Copies and members are counted right, and none is kept at zero."""
        counted: list[dict[EngineHash, int]] = [{} for _ in self._spread]
        for member, copies in enumerate(self._copies):
            assert all(num_copies > 0 for num_copies in copies.values())
            spread = counted[self._layout.member_to_group[member]]
            for block in copies:
                spread[block] = spread.get(block, 0) + 1
        assert counted == self._spread
