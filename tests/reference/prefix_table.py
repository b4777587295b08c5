"""A dict of sets, and prefixes tried one by one: the slow twin of
`cache.prefix_table` and `cache.usable_prefix`."""

from collections.abc import Iterable, Sequence

from cache.types import BlockGroup


class ReferenceTable:
    """Which bits have which blocks, without a bound."""

    def __init__(self) -> None:
        self.block_to_bits: dict[int, set[int]] = {}

    def store(self, bit: int, hashes: Iterable[int]) -> None:
        for block in hashes:
            self.block_to_bits.setdefault(block, set()).add(bit)

    def remove(self, bit: int, hashes: Iterable[int]) -> None:
        for block in hashes:
            self.block_to_bits.get(block, set()).discard(bit)
            self.delete_without_bits()

    def clear_bits(self, live: set[int]) -> None:
        for bits in self.block_to_bits.values():
            bits.intersection_update(live)
        self.delete_without_bits()

    def delete_without_bits(self) -> None:
        self.block_to_bits = {block: bits for block, bits in self.block_to_bits.items() if bits}

    def has(self, bit: int, block: int) -> bool:
        return bit in self.block_to_bits.get(block, set())

    def leading_blocks(self, bit: int, hashes: Sequence[int]) -> int:
        length = 0
        while length < len(hashes) and self.has(bit, hashes[length]):
            length += 1
        return length


def usable_tokens(
    groups: Sequence[BlockGroup],
    hashes: Sequence[Sequence[int]],
    table: ReferenceTable,
    bit: int,
) -> int:
    """The most tokens that all groups accept, for one holder."""
    most = min(len(found) * g.block_size for g, found in zip(groups, hashes, strict=True))
    return max(
        num_tokens
        for num_tokens in range(most + 1)
        if all(
            accepts(group, [table.has(bit, block) for block in found], num_tokens)
            for group, found in zip(groups, hashes, strict=True)
        )
    )


def accepts(group: BlockGroup, is_there: Sequence[bool], num_tokens: int) -> bool:
    """The group can go on after so many tokens."""
    if num_tokens % group.block_size:
        return False
    before = is_there[: num_tokens // group.block_size]
    if group.kind == "full":
        return all(before)
    if group.kind == "recurrent":
        return all(before[-1:])
    assert group.window_tokens is not None
    first_token = max(0, num_tokens - (group.window_tokens - 1))
    return all(before[first_token // group.block_size :])
