"""Block hashes: their definition, in vectors and against the slow twin."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache.block_hash import block_hashes, chain_seed, extend, shard_of
from cache.types import NUM_SHARDS, BlockHash, ChainContext
from tests.reference import block_hash as reference

TOKENS = st.lists(st.sampled_from([0, 1, 2**32 - 1]), max_size=40)
BLOCK_SIZES = st.sampled_from([1, 2, 3, 16])
WORDS = st.one_of(st.sampled_from([0, 1, 2**56, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
NAMES = st.text(alphabet="aé\0", max_size=3)


def as_array(tokens: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(tokens, np.uint32)


@pytest.mark.parametrize(
    ("context", "group", "block_size", "seed"),
    [
        (ChainContext("m"), 0, 16, 0xE8D9E444199420A7),
        (ChainContext("m", "a", "s"), 0, 16, 0xD9A46E1C8A4B0175),
        (ChainContext("m"), 1, 32, 0x9429D8935D04FA4C),
        (ChainContext("org/modèle"), 0, 16, 0x0E80E590260F646F),
    ],
)
def test_seeds_are_those_of_the_definition(
    context: ChainContext, group: int, block_size: int, seed: int
) -> None:
    assert chain_seed(context, group, block_size) == seed


@pytest.mark.parametrize(
    ("tokens", "block_size", "seed", "hashes"),
    [
        ([0, 1], 2, 0, [0xDBEE2B134197C170]),
        (
            list(range(40)),
            16,
            0xE8D9E444199420A7,
            [0xF27B61E4FC7FD723, 0xF259A5AAD09A9B37],
        ),
        (
            [0] * 16 + [2**32 - 1] * 16,
            16,
            0xE8D9E444199420A7,
            [0x18233BDE0C050A9A, 0x18C3DA94B5D4750F],
        ),
        (
            [7, 8, 9],
            1,
            2**64 - 1,
            [0xB319A95395AE000A, 0xB38D37A5A9E14777, 0xB36E73AFE6AA5AFD],
        ),
    ],
)
def test_hashes_are_those_of_the_definition(
    tokens: list[int], block_size: int, seed: int, hashes: list[int]
) -> None:
    assert block_hashes(as_array(tokens), block_size, seed).tolist() == hashes


@given(TOKENS, BLOCK_SIZES, WORDS)
def test_hashes_are_those_of_the_slow_twin(
    tokens: list[int], block_size: int, seed: int
) -> None:
    found = block_hashes(as_array(tokens), block_size, seed).tolist()
    assert found == reference.block_hashes(tokens, block_size, seed)


@given(WORDS.filter(bool), TOKENS, BLOCK_SIZES)
def test_a_chain_goes_on_as_the_slow_twin_does(
    parent: int, tokens: list[int], block_size: int
) -> None:
    found = extend(BlockHash(parent), as_array(tokens), block_size).tolist()
    assert found == reference.extend(parent, tokens, block_size)


@given(TOKENS, BLOCK_SIZES, st.integers(1, 20), WORDS)
def test_a_chain_can_be_continued_from_any_of_its_hashes(
    tokens: list[int], block_size: int, num_blocks: int, seed: int
) -> None:
    whole = block_hashes(as_array(tokens), block_size, seed)
    for at in range(min(num_blocks, len(whole))):
        rest = as_array(tokens[(at + 1) * block_size :])
        found = extend(BlockHash(int(whole[at])), rest, block_size)
        assert found.tolist() == whole[at + 1 :].tolist()


@given(TOKENS, BLOCK_SIZES, WORDS)
def test_all_hashes_of_a_chain_tell_its_shard(
    tokens: list[int], block_size: int, seed: int
) -> None:
    found = block_hashes(as_array(tokens), block_size, seed).tolist()
    shards = {shard_of(BlockHash(h)) for h in found}
    assert len(shards) <= 1
    assert all(0 <= shard < NUM_SHARDS for shard in shards)


def test_no_hash_is_zero() -> None:
    # `mix` maps 0 to 0, and it is given the seed XOR the block's content.
    seed = sum(1 * reference.key(j) for j in range(4)) % 2**64
    assert block_hashes(as_array([0] * 4), 4, seed).tolist() == [1]
    assert reference.block_hashes([0] * 4, 4, seed) == [1]


@given(NAMES, NAMES, NAMES, st.integers(0, 3), st.integers(1, 64))
@example("", "", "", 0, 1)
def test_seeds_are_those_of_the_slow_twin(
    model: str, adapter: str, cache_salt: str, group: int, block_size: int
) -> None:
    context = ChainContext(model, adapter or None, cache_salt or None)
    expected = reference.chain_seed(model, adapter, cache_salt, group, block_size)
    assert chain_seed(context, group, block_size) == expected


def test_nothing_that_decides_over_sharing_can_be_taken_for_another() -> None:
    contexts = [
        ChainContext("ab"),
        ChainContext("a", "b"),
        ChainContext("a", None, "b"),
        ChainContext("", "ab"),
        ChainContext("", "a", "b"),
        ChainContext("", None, "ab"),
    ]
    seeds = {
        chain_seed(context, group, block_size)
        for context in contexts
        for group in (0, 1)
        for block_size in (16, 32)
    }
    assert len(seeds) == len(contexts) * 4


def test_tokens_of_a_message_that_cannot_be_written_are_hashed() -> None:
    tokens = np.frombuffer(as_array([5, 6, 7, 8]).tobytes(), np.uint32)
    assert not tokens.flags.writeable
    assert block_hashes(tokens, 2, 9).tolist() == reference.block_hashes([5, 6, 7, 8], 2, 9)


def test_hashes_of_different_prompts_differ() -> None:
    rng = np.random.default_rng(7)
    tokens = rng.integers(0, 4, 4 * 200_000, dtype=np.uint32)
    assert len(np.unique(tokens.reshape(-1, 4), axis=0)) == 4**4
    found = block_hashes(tokens, 4, 1)
    assert len(np.unique(found)) == len(found)
    bits = np.unpackbits(found.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    shares = bits.mean(axis=0)[:56]
    assert np.abs(shares - 0.5).max() < 0.01
