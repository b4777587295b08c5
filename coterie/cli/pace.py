"""How quickly an answer came."""

import time
from collections.abc import Callable

from coterie.types import Chunk, Usage


class Pace:
    """Counts tokens and takes times, in seconds, from its making onwards."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._first_s: float | None = None
        self._last_s = self._start_s
        self._num_first_tokens = 0
        self._num_tokens = 0

    def add(self, chunk: Chunk) -> None:
        """Note that a chunk has come."""
        self._last_s = self._clock()
        self._num_tokens += len(chunk.token_ids)
        if self._first_s is None:
            self._first_s = self._last_s
            self._num_first_tokens = self._num_tokens

    def summary(self, usage: Usage | None) -> str:
        """One line: tokens, time to the first one, tokens per second after it."""
        parts = [f"{self._num_tokens} tokens"]
        if usage is not None:
            cached = f" ({usage.num_cached_tokens} cached)" if usage.num_cached_tokens else ""
            parts.insert(0, f"{usage.num_prompt_tokens} prompt tokens{cached}")
        if self._first_s is not None:
            parts.append(f"first after {self._first_s - self._start_s:.2f} s")
            decode_s = self._last_s - self._first_s
            num_decoded = self._num_tokens - self._num_first_tokens
            if decode_s > 0 and num_decoded > 0:
                parts.append(f"{num_decoded / decode_s:.1f} tokens/s")
        return ", ".join(parts)
