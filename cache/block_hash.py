"""Block hashes: 64 bits that name a block of tokens and all that is before it.

Arithmetic is modulo 2^64, and `mix` is the finalizer of SplitMix64 (Steele, Lea and
Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), a bijection:

    mix(x):  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9
             x = (x ^ x >> 27) * 0x94D049BB133111EB
             return x ^ x >> 31

    key[j]     = mix((j + 1) * 0x9E3779B97F4A7C15) | 1
    content    = sum of (token[j] + 1) * key[j] over the block's tokens j = 0, 1, ...
    x          = mix(before ^ content)
    block hash = the chain's shard (8 bits), then the low 56 bits of x; or 1 for 0

`before` is the hash of the block before it, or the chain's seed. The *shard* is the
top 8 bits of the first block's x, so any hash of a chain tells it, and a block's hash
is enough to go on from. The *seed* is what `chain_seed` makes of the context.

Worked example: blocks of 2 tokens after the seed 0, tokens 0 and 1. The keys are
0xE220A8397B1DCDAF and 0x6E789E6AA1B965F5, so the content is 1 * key[0] + 2 * key[1]
= 0xBF11E50EBE909999, and its mix 0xDBEE2B134197C170 is the hash; the shard is 0xDB.

Two blocks of one chain's shard have the same hash with a chance of 2^-56. The keys
are public, so who chooses tokens can choose hashes: a hash is a hint where a prefix
may lie, never a proof that two are the same.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numba import types

from cache.array_types import HASHES, TOKENS
from cache.types import BlockHash, ChainContext, Hashes, Tokens
from infra.compiled import compiled, inlined

SCHEME = b"coterie chain 1"
"""Stands for this definition: a change of it changes all hashes."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_SHARD_SHIFT = np.uint64(56)
_LOW_BITS = np.uint64(2**56 - 1)
_ONE = np.uint64(1)


@lru_cache(maxsize=4096)
def chain_seed(context: ChainContext, group: int, block_size: int) -> int:
    """From where the chains of a context's cache group start; unsigned, 64 bits.

    BLAKE2b, 8 bytes, personalized by `SCHEME`, read as little-endian, over: model,
    adapter and cache salt in UTF-8, each after its number of bytes, then group and
    block size; all numbers as 8 bytes, little-endian. What is None counts as empty.
    """
    assert group >= 0
    assert block_size > 0
    digest = hashlib.blake2b(digest_size=8, person=SCHEME)
    for text in (context.model, context.adapter, context.cache_salt):
        field = (text or "").encode()
        digest.update(len(field).to_bytes(8, "little") + field)
    for number in (group, block_size):
        digest.update(number.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


def block_hashes(tokens: Tokens, block_size: int, seed: int) -> Hashes:
    """Hashes of the full blocks of a prompt. Shape: [len(tokens) // block_size]."""
    hashes = np.empty(len(tokens) // block_size, np.uint64)
    _hash_chain(tokens, _block_keys(block_size), seed, True, hashes)
    return hashes


def extend(parent: BlockHash, tokens: Tokens, block_size: int) -> Hashes:
    """Hashes of the full blocks that follow the block `parent`.

    Shape: [len(tokens) // block_size].
    """
    hashes = np.empty(len(tokens) // block_size, np.uint64)
    _hash_chain(tokens, _block_keys(block_size), parent, False, hashes)
    return hashes


def shard_of(block: BlockHash) -> int:
    """The shard of the block's chain, from 0 to `NUM_SHARDS` - 1."""
    return block >> 56


@lru_cache(maxsize=64)
def _block_keys(block_size: int) -> Hashes:
    keys = np.empty(block_size, np.uint64)
    _fill_keys(keys)
    keys.flags.writeable = False
    return keys


@inlined
def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> np.uint64(30))) * _FACTOR_1
    x = (x ^ (x >> np.uint64(27))) * _FACTOR_2
    return x ^ (x >> np.uint64(31))


@compiled(types.void(types.uint64[::1]))
def _fill_keys(keys: Hashes) -> None:
    for j in range(len(keys)):
        keys[j] = _mix(np.uint64(j + 1) * _STEP) | _ONE


@compiled(types.void(TOKENS, HASHES, types.uint64, types.boolean, types.uint64[::1]))
def _hash_chain(
    tokens: Tokens, keys: Hashes, parent: int, is_seed: bool, hashes: Hashes
) -> None:
    block_size = len(keys)
    before = np.uint64(parent)
    shard = before >> _SHARD_SHIFT
    for block in range(len(hashes)):
        content = np.uint64(0)
        for j in range(block_size):
            content += (np.uint64(tokens[block * block_size + j]) + _ONE) * keys[j]
        x = _mix(before ^ content)
        if is_seed and block == 0:
            shard = x >> _SHARD_SHIFT
        before = shard << _SHARD_SHIFT | x & _LOW_BITS
        if before == 0:
            before = _ONE
        hashes[block] = before
