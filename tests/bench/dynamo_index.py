"""Dynamo's index of prefixes, the `RadixTree` of its Rust library, behind its Python.

It names a block by a hash of its tokens alone, and finds chains in a tree; `block_hash`
is the engine's own name, by which removals come. Events come as JSON.
"""

import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

REQUIREMENTS = "tests/bench/index_requirements.txt"


class DynamoIndex:
    """A tree, and what it costs to ask it.

    Raises SystemExit where `ai-dynamo-runtime` is not installed.
    """

    def __init__(self, block_size: int) -> None:
        try:
            core = importlib.import_module("dynamo._core")
        except ImportError:
            sys.exit(f"ai-dynamo-runtime is missing: python -m pip install -r {REQUIREMENTS}")
        self._hash = core.compute_block_hash_for_seq
        self._tree = core.RadixTree()
        self._block_size = block_size
        self._num_events = 0

    def hash_tokens(self, tokens: list[int]) -> list[int]:
        """A hash of each full block's own tokens."""
        hashes: list[int] = self._hash(tokens, self._block_size)
        return hashes

    def look_up(self, tokens: list[int]) -> Any:
        """What is timed: from the prompt to the scores."""
        return self._tree.find_matches(self._hash(tokens, self._block_size))

    def depths(self, tokens: list[int]) -> dict[int, int]:
        """Leading blocks by worker, without those that have none."""
        scores = self.look_up(tokens).scores
        return {worker: depth for (worker, _), depth in scores.items()}

    def apply(self, worker: int, event: bytes) -> None:
        """What is timed of an event; it is done in the tree's own thread."""
        self._tree.apply_event(worker, event)

    def wait(self) -> None:
        """Until all events are applied."""
        self._tree.find_matches([])

    def stored(self, parent: int | None, blocks: Sequence[str]) -> bytes:
        """An event, of what `block_texts` gives."""
        named = "null" if parent is None else parent
        return self._event(
            f'{{"stored":{{"parent_hash":{named},"blocks":[{",".join(blocks)}]}}}}'
        )

    def removed(self, names: Iterable[int]) -> bytes:
        """An event."""
        return self._event(f'{{"removed":{{"block_hashes":[{",".join(map(str, names))}]}}}}')

    def _event(self, data: str) -> bytes:
        self._num_events += 1
        return f'{{"event_id":{self._num_events},"data":{data},"dp_rank":0}}'.encode()


def block_texts(names: Iterable[int], hashes: Iterable[int]) -> list[str]:
    """Each block as it stands in an event: its name, and the hash of its tokens."""
    return [
        f'{{"block_hash":{name},"tokens_hash":{found}}}'
        for name, found in zip(names, hashes, strict=True)
    ]
