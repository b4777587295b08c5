"""Prefixes that will lie somewhere soon: of prompts that were sent there a moment ago.

An engine tells what it has cached once it works on the prompt, and the news takes its way
through the store. Until then requests with the same new prefix, of which an agent may send
many at once, would not know of each other.

What is noted is forgotten after `keep_s` to twice as long: there are two tables, of which
the older one is dropped every `keep_s`.

Worked example, with `keep_s` 5: a prompt of 4 blocks is sent to `e1` at 0 s. A prompt that
shares 3 of them is said to have 3 blocks at `e1` until 10 s; by then the index says so.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cache.prefix_table import PrefixTable
from cache.types import BlockGroup, Hashes
from cache.usable_prefix import usable_tokens

# Some seconds of prompts at the highest rates; beyond it some are forgotten earlier.
_MAX_BLOCKS = 2**18
_WORD_BITS = 64


class ExpectedPrefixes:
    """Times are seconds of any clock that does not go back. Belongs to one event loop."""

    def __init__(self, groups: Sequence[BlockGroup], keep_s: float) -> None:
        self._groups = tuple(groups)
        self._keep_s = keep_s
        self._young, self._old = _Generation(), _Generation()
        self._young_since_s = float("-inf")

    def expect(self, replica_id: str, hashes: Sequence[Hashes], now_s: float) -> None:
        """The replica will compute these blocks: for each group those of the prompt."""
        self._age(now_s)
        self._young.store(replica_id, hashes)

    def usable(self, hashes: Sequence[Hashes], now_s: float) -> Mapping[str, int]:
        """Tokens of the prompt that each replica should be able to use; see
        `cache.usable_prefix`. Replicas with none are left out."""
        self._age(now_s)
        found = self._old.usable(self._groups, hashes)
        for replica_id, tokens in self._young.usable(self._groups, hashes).items():
            found[replica_id] = max(tokens, found.get(replica_id, 0))
        return found

    @property
    def num_bytes(self) -> int:
        """Memory of both tables."""
        return self._young.table.num_bytes + self._old.table.num_bytes

    def _age(self, now_s: float) -> None:
        age_s = now_s - self._young_since_s
        if age_s < self._keep_s:
            return
        is_next = age_s < 2 * self._keep_s
        self._old = self._young if is_next else _Generation()
        self._young = _Generation()
        self._young_since_s = self._young_since_s + self._keep_s if is_next else now_s


class _Generation:
    """What was noted within `keep_s`; replicas have bits in the order of their coming."""

    def __init__(self) -> None:
        self.table = PrefixTable(_MAX_BLOCKS)
        self._replica_to_bit: dict[str, int] = {}
        self._live_mask = np.zeros(1, np.uint64)

    def store(self, replica_id: str, hashes: Sequence[Hashes]) -> None:
        bit = self._replica_to_bit.setdefault(replica_id, len(self._replica_to_bit))
        num_words = bit // _WORD_BITS + 1
        if num_words > len(self._live_mask):
            self._live_mask = np.pad(self._live_mask, (0, num_words - len(self._live_mask)))
        self._live_mask[bit // _WORD_BITS] |= np.uint64(1 << bit % _WORD_BITS)
        for of_group in hashes:
            self.table.store(bit, of_group)

    def usable(self, groups: Sequence[BlockGroup], hashes: Sequence[Hashes]) -> dict[str, int]:
        if not len(self.table):
            return {}
        tokens = usable_tokens(groups, hashes, self.table, self._live_mask)
        return {r: int(tokens[bit]) for r, bit in self._replica_to_bit.items() if tokens[bit]}
