"""From a prompt's tokens to each replica's prefix: ours, and Dynamo's, in turn.

Both indexes are told the same: prompts of the size in question that each replica holds
to another depth, the last one to the end, beside many others.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cache.block_hash import block_hashes, chain_seed
from cache.prefix_table import PrefixTable
from cache.token_ids import token_array
from cache.types import BlockGroup, ChainContext, Hashes
from cache.usable_prefix import usable_tokens
from tests.bench.dynamo_index import DynamoIndex, block_texts

BLOCK_SIZE = 16
GROUPS = (BlockGroup("full", BLOCK_SIZE),)
SEED = chain_seed(ChainContext("bench"), 0, BLOCK_SIZE)
VOCABULARY = 150_000
NUM_PROMPTS = 4
OTHER_PROMPT_TOKENS = 8_000


@dataclass(frozen=True)
class LookupRow:
    """Medians over the rounds; in each round both look the same prompt up once."""

    num_tokens: int
    num_replicas: int
    dynamo_us: float
    ours_us: float
    """From the list of ints, as Dynamo's."""

    ours_from_array_us: float
    """From an array of uint32."""

    ratio: float
    """Ours over Dynamo's, both from the list."""


class Indexes:
    """Both, with the same content."""

    def __init__(self, num_replicas: int) -> None:
        self.num_replicas = num_replicas
        self.dynamo = DynamoIndex(BLOCK_SIZE)
        self.table = PrefixTable(max_blocks=10**8)
        num_words = -(-num_replicas // 64)
        live = np.zeros(64 * num_words, np.uint8)
        live[:num_replicas] = 1
        self.live_mask: Hashes = np.packbits(live, bitorder="little").view(np.uint64)

    def hold(self, prompt: list[int], replica_to_depth: Iterator[tuple[int, int]]) -> None:
        """Each of these replicas holds so many of the prompt's blocks."""
        hashes = block_hashes(token_array(prompt), BLOCK_SIZE, SEED)
        texts = block_texts(hashes.tolist(), self.dynamo.hash_tokens(prompt))
        for replica, depth in replica_to_depth:
            self.table.store(replica, hashes[:depth])
            self.dynamo.apply(replica, self.dynamo.stored(None, texts[:depth]))

    def depths(self, num_blocks: int) -> Iterator[tuple[int, int]]:
        """A depth for each replica, the last one's the whole."""
        for replica in range(self.num_replicas):
            yield replica, num_blocks * (replica + 1) // self.num_replicas

    def check(self, prompt: list[int]) -> None:
        """Asserts that both say the same, and what they were told."""
        found = self.look_up(prompt) // BLOCK_SIZE
        ours = {replica: int(depth) for replica, depth in enumerate(found) if depth}
        assert ours == self.dynamo.depths(prompt)
        assert ours == {r: d for r, d in self.depths(len(prompt) // BLOCK_SIZE) if d}

    def look_up(self, prompt: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """What is timed of ours."""
        return self.look_up_array(token_array(prompt))

    def look_up_array(
        self, tokens: np.ndarray[tuple[int], np.dtype[np.uint32]]
    ) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The same, of tokens that are in an array already."""
        hashes = block_hashes(tokens, BLOCK_SIZE, SEED)
        return usable_tokens(GROUPS, (hashes,), self.table, self.live_mask)


def measure_lookups(
    sizes: Sequence[int], replicas: Sequence[int], num_others: int, num_rounds: int
) -> Iterator[LookupRow]:
    """A row for each number of replicas and size of prompt; `num_others` blocks of
    other prompts are in the indexes as well."""
    for num_replicas in replicas:
        rng = random.Random(num_replicas)
        indexes = Indexes(num_replicas)
        for _ in range(num_others * BLOCK_SIZE // OTHER_PROMPT_TOKENS):
            other = _prompt(rng, OTHER_PROMPT_TOKENS)
            num_blocks = OTHER_PROMPT_TOKENS // BLOCK_SIZE
            indexes.hold(other, iter([(rng.randrange(num_replicas), num_blocks)]))
        for num_tokens in sizes:
            prompts = [_prompt(rng, num_tokens) for _ in range(NUM_PROMPTS)]
            for prompt in prompts:
                indexes.hold(prompt, indexes.depths(num_tokens // BLOCK_SIZE))
                indexes.check(prompt)
            yield _row(indexes, prompts, num_rounds)


def _prompt(rng: random.Random, num_tokens: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(num_tokens)]


def _row(indexes: Indexes, prompts: list[list[int]], num_rounds: int) -> LookupRow:
    arrays = [token_array(prompt) for prompt in prompts]
    dynamo: list[float] = []
    ours: list[float] = []
    from_array: list[float] = []
    gc.disable()
    for number in range(num_rounds):
        prompt, array = prompts[number % NUM_PROMPTS], arrays[number % NUM_PROMPTS]
        # Whoever asks has just made the tokens: they are in the processor's cache.
        sum(prompt)
        dynamo.append(_time_us(indexes.dynamo.look_up, prompt))
        sum(prompt)
        ours.append(_time_us(indexes.look_up, prompt))
        array.sum()
        from_array.append(_time_us(indexes.look_up_array, array))
    gc.enable()
    medians = [statistics.median(times[NUM_PROMPTS:]) for times in (dynamo, ours, from_array)]
    return LookupRow(
        num_tokens=len(prompts[0]),
        num_replicas=indexes.num_replicas,
        dynamo_us=round(medians[0], 1),
        ours_us=round(medians[1], 1),
        ours_from_array_us=round(medians[2], 1),
        ratio=round(medians[1] / medians[0], 3),
    )


def _time_us(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - started) / 1000
