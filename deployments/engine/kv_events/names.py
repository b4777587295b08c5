"""Our hashes for the engine's blocks, learnt from the events that tell their tokens.

An engine hash stands for a prefix in all groups alike. So one event names its blocks in
each group that has its block size: groups which keep a few blocks of a prefix only (the
ends of sliding windows, the last state of a recurrent group) tell neither which ones
those are nor the salt before them, but a group of full attention beside them tells all.

A name is kept while a cache has the block. Then it is *idle*, and the longest idle ones
go first: those who continue a prefix, and a slower tier that still has the block, name
it long after its end.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from cache.block_hash import block_hashes, chain_seed, extend
from cache.token_ids import token_array
from cache.types import BlockHash, ChainContext
from deployments.engine.kv_events.messages import StoredEvent
from deployments.engine.kv_events.types import EngineHash

MAX_IDLE = 65_536


class _Name:
    """Our hashes of one block, by group, and how many copies of it are somewhere."""

    __slots__ = ("hashes", "num_copies")

    def __init__(self, hashes: tuple[int, ...]) -> None:
        self.hashes = hashes  # [num_groups of this block size]
        self.num_copies = 0


class BlockNames:
    """The names of the blocks of one size."""

    def __init__(
        self, model: str, block_size: int, groups: Sequence[int], max_idle: int = MAX_IDLE
    ) -> None:
        self.block_size = block_size
        self._model = model
        self._groups = tuple(groups)
        self._place: Mapping[int, int] = {group: i for i, group in enumerate(groups)}
        self._max_idle = max_idle
        self._names: dict[EngineHash, _Name] = {}
        self._idle: OrderedDict[EngineHash, None] = OrderedDict()

    def learn(self, event: StoredEvent) -> None:
        """Name the blocks of a dense event, but for those that tokens cannot name.

        These are all from the first on whose keys hold more than adapter and salt (an
        image, say), and those whose parent has no name. Raises ValueError for token
        ids that are none.
        """
        hashes = event.block_hashes[: _num_nameable(event)]
        if not hashes or all(block in self._names for block in hashes):
            return
        parent = event.parent_block_hash
        if parent is not None and parent not in self._names:
            return
        tokens = token_array(event.token_ids)[: len(hashes) * self.block_size]
        if parent is None:
            context = ChainContext(self._model, event.lora_name, _salt_of(event))
            seeds = [chain_seed(context, group, self.block_size) for group in self._groups]
            chains = [block_hashes(tokens, self.block_size, seed) for seed in seeds]
        else:
            befores = map(BlockHash, self._names[parent].hashes)
            chains = [extend(before, tokens, self.block_size) for before in befores]
        of_blocks = zip(*(chain.tolist() for chain in chains), strict=True)
        for block, ours in zip(hashes, of_blocks, strict=True):
            self._add(block, ours)

    def find(self, block: EngineHash, group: int) -> BlockHash | None:
        """Our hash of the block in a group; None if it has no name."""
        name = self._names.get(block)
        return None if name is None else BlockHash(name.hashes[self._place[group]])

    def hold(self, block: EngineHash) -> None:
        """One copy more; the block has a name."""
        self._names[block].num_copies += 1
        self._idle.pop(block, None)

    def release(self, block: EngineHash) -> None:
        """One copy less of a block that has been held."""
        name = self._names[block]
        name.num_copies -= 1
        if not name.num_copies:
            self._idle[block] = None

    def copies(self) -> dict[EngineHash, int]:
        """How many copies of a block there are, of those that have any."""
        counts = {block: name.num_copies for block, name in self._names.items()}
        return {block: num_copies for block, num_copies in counts.items() if num_copies}

    def _add(self, block: EngineHash, hashes: tuple[int, ...]) -> None:
        if block not in self._names:
            self._names[block] = _Name(hashes)
            self._idle[block] = None

    def forget_idle(self) -> None:
        """Keep no more idle names than allowed: not between a batch's names and its use."""
        while len(self._idle) > self._max_idle:
            block, _ = self._idle.popitem(last=False)
            del self._names[block]

    def check_invariants(self) -> None:
        """The idle ones are those without copies, and no more than allowed."""
        idle = {block for block, name in self._names.items() if not name.num_copies}
        assert idle == self._idle.keys()
        assert len(idle) <= self._max_idle
        assert all(name.num_copies >= 0 for name in self._names.values())
        assert all(len(n.hashes) == len(self._groups) for n in self._names.values())


def _num_nameable(event: StoredEvent) -> int:
    """How many of the event's first blocks are named by their tokens and context."""
    if event.extra_keys is None:
        return len(event.block_hashes)
    is_root = event.parent_block_hash is None
    for i, keys in enumerate(event.extra_keys):
        if not _is_context(_without_adapter(keys, event.lora_name), is_root and i == 0):
            return i
    return len(event.extra_keys)


def _is_context(keys: Sequence[object], is_first: bool) -> bool:
    return not keys or (is_first and len(keys) == 1 and isinstance(keys[0], str))


def _without_adapter(keys: Sequence[object] | None, adapter: str | None) -> Sequence[object]:
    keys = keys or ()
    return keys[1:] if keys and adapter is not None and keys[0] == adapter else keys


def _salt_of(event: StoredEvent) -> str | None:
    """A cache salt stands in the keys of a prefix's first block alone."""
    if not event.extra_keys:
        return None
    keys = _without_adapter(event.extra_keys[0], event.lora_name)
    return str(keys[0]) if keys else None
