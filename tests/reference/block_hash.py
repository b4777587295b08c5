"""Block hashes in whole numbers of any size: the slow twin of `cache.block_hash`."""

import hashlib
from collections.abc import Sequence


def chain_seed(model: str, adapter: str, cache_salt: str, group: int, block_size: int) -> int:
    fields = [text.encode() for text in (model, adapter, cache_salt)]
    message = b"".join(len(f).to_bytes(8, "little") + f for f in fields)
    message += group.to_bytes(8, "little") + block_size.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=8, person=b"coterie chain 1").digest()
    return int.from_bytes(digest, "little")


def block_hashes(tokens: Sequence[int], block_size: int, seed: int) -> list[int]:
    return _chain(tokens, block_size, seed, None)


def extend(parent: int, tokens: Sequence[int], block_size: int) -> list[int]:
    return _chain(tokens, block_size, parent, parent // 2**56)


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def key(j: int) -> int:
    return mix((j + 1) * 0x9E3779B97F4A7C15 % 2**64) | 1


def _chain(tokens: Sequence[int], block_size: int, before: int, shard: int | None) -> list[int]:
    hashes = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        block = tokens[start : start + block_size]
        content = sum((token + 1) * key(j) for j, token in enumerate(block)) % 2**64
        x = mix(before ^ content)
        if shard is None:
            shard = x // 2**56
        before = shard * 2**56 + x % 2**56 or 1
        hashes.append(before)
    return hashes
