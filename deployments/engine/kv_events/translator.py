"""From the events of one data-parallel rank to changes of what its tiers hold.

A batch is read twice: first its blocks are named, then they come and go in the order
of its events. For within a batch the event that tells a block's tokens may come after
one of another group that tells the block alone.

The slower tier's events tell no salt, and by default no tokens either. What it holds
was in the device's memory before, so its blocks have their names from there.
"""

from collections.abc import Callable, Iterable

import numpy as np

from cache.types import BlockHash, Hashes, Tier
from deployments.engine.kv_events.holding import Holding
from deployments.engine.kv_events.layout import GroupLayout
from deployments.engine.kv_events.messages import (
    ClearedEvent,
    Event,
    RemovedEvent,
    StoredEvent,
)
from deployments.engine.kv_events.names import MAX_IDLE, BlockNames
from deployments.engine.kv_events.types import (
    MEDIUM_TO_TIER,
    EngineHash,
    EventCounters,
)


class Translator:
    """Keeps what each tier holds; see the module's docstring.

    `on_malformed` is told of events that make no sense, which are passed over.
    """

    def __init__(
        self,
        model: str,
        layout: GroupLayout,
        counters: EventCounters,
        on_malformed: Callable[[str], None] = lambda complaint: None,
        max_idle: int = MAX_IDLE,
    ) -> None:
        self._layout = layout
        self._counters = counters
        self._on_malformed = on_malformed
        self._names = {
            size: BlockNames(model, size, groups, max_idle)
            for size, groups in _groups_by_block_size(layout).items()
        }
        self._names_of_group = [self._names[group.block_size] for group in layout.groups]
        self._holdings: dict[Tier, Holding] = {"device": Holding(layout)}
        self._is_cleared = False

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Those that events have told of; the device's memory always."""
        return tuple(self._holdings)

    def apply(self, events: Iterable[Event]) -> None:
        """Take over one batch."""
        events = [event for event in events if self._is_ours(event)]
        for event in events:
            if isinstance(event, StoredEvent) and event.medium == "GPU":
                self._learn(event)
        for event in events:
            if isinstance(event, StoredEvent):
                self._store(event)
            elif isinstance(event, RemovedEvent):
                self._remove(event)
            else:
                self.forget()
                self._is_cleared = True
                self._counters.num_cleared += 1
        for names in self._names.values():
            names.forget_idle()

    def take_clear(self) -> bool:
        """Whether all was cleared since this was asked last; what changed is later."""
        is_cleared, self._is_cleared = self._is_cleared, False
        return is_cleared

    def take_changes(self, tier: Tier) -> tuple[Hashes, Hashes]:
        """Blocks that the tier got and lost since this was asked last.

        Shapes: [num_stored], [num_removed]; no hash is in both.
        """
        stored, removed = self._holdings[tier].take_changes()
        self._counters.num_stored += len(stored)
        self._counters.num_removed += len(removed)
        return stored, removed

    def current_hashes(self, tier: Tier) -> Hashes:
        """All that the tier holds. Shape: [num_blocks]."""
        holding = self._holdings.get(tier)
        return np.empty(0, np.uint64) if holding is None else holding.hashes(self._find)

    def forget(self) -> None:
        """Nothing is held; names stay, since they are true for ever."""
        for tier, holding in self._holdings.items():
            for group, block, num_copies in holding.copies():
                for _ in range(num_copies):
                    self._names_of_group[group].release(block)
            self._holdings[tier] = Holding(self._layout)

    def _is_ours(self, event: Event) -> bool:
        """Whether it tells of a group and tier that routers look at; counted if not."""
        if isinstance(event, ClearedEvent):
            return True
        is_ours = (
            event.medium in MEDIUM_TO_TIER
            and event.locality in (None, "LOCAL")
            and event.group_idx is not None
            and 0 <= event.group_idx < len(self._layout.member_to_group)
        )
        if not is_ours:
            self._counters.num_left_out += len(event.block_hashes)
        return is_ours

    def _learn(self, event: StoredEvent) -> None:
        _, group = self._place(event)
        names = self._names_of_group[group]
        if not event.is_dense or event.block_size != names.block_size:
            return
        if event.extra_keys is not None and len(event.extra_keys) != len(event.block_hashes):
            self._on_malformed("BlockStored has not as many extra keys as blocks")
            return
        try:
            names.learn(event)
        except ValueError as error:
            self._on_malformed(str(error))

    def _store(self, event: StoredEvent) -> None:
        member, group = self._place(event)
        names = self._names_of_group[group]
        # Part of a block of such a group; by the slower tier it may be unknown (0).
        if event.block_size not in (0, names.block_size):
            self._counters.num_left_out += len(event.block_hashes)
            return
        holding = self._holding_of(event.medium)
        for block in event.block_hashes:
            name = names.find(block, group)
            if name is None:
                self._counters.num_left_out += 1
            else:
                names.hold(block)
                holding.add(member, block, name)

    def _remove(self, event: RemovedEvent) -> None:
        member, group = self._place(event)
        holding = self._holding_of(event.medium)
        names = self._names_of_group[group]
        for block in event.block_hashes:
            if holding.has(member, block):
                name = names.find(block, group)
                assert name is not None, "what is held has a name"
                holding.remove(member, block, name)
                names.release(block)

    def _place(self, event: StoredEvent | RemovedEvent) -> tuple[int, int]:
        """vLLM's group and ours."""
        assert event.group_idx is not None, "others are left out"
        return event.group_idx, self._layout.member_to_group[event.group_idx]

    def _holding_of(self, medium: str | None) -> Holding:
        assert medium is not None, "others are left out"
        tier = MEDIUM_TO_TIER[medium]
        if tier not in self._holdings:
            self._holdings[tier] = Holding(self._layout)
        return self._holdings[tier]

    def _find(self, block: EngineHash, group: int) -> BlockHash | None:
        return self._names_of_group[group].find(block, group)

    def check_invariants(self) -> None:
        """A name has as many copies as the tiers together hold of its block."""
        self._layout.check_invariants()
        held: dict[int, dict[EngineHash, int]] = {size: {} for size in self._names}
        for holding in self._holdings.values():
            holding.check_invariants()
            for group, block, num_copies in holding.copies():
                counts = held[self._layout.groups[group].block_size]
                counts[block] = counts.get(block, 0) + num_copies
        for size, names in self._names.items():
            names.check_invariants()
            assert names.copies() == held[size]


def _groups_by_block_size(layout: GroupLayout) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, group in enumerate(layout.groups):
        found.setdefault(group.block_size, []).append(place)
    return found
