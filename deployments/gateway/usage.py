"""Counts the tokens of one request as its deltas pass by."""

from deployments.types import Delta, Usage


class UsageCounter:
    """Prompt, output and cached tokens of one request with `n` outputs."""

    def __init__(self, num_prompt_tokens: int, num_outputs: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._num_unfinished = num_outputs
        self._num_output_tokens = 0
        self._num_cached_tokens = 0

    def add(self, delta: Delta) -> Usage | None:
        """Count one delta; the usage if it is the request's last."""
        self._num_output_tokens += len(delta.token_ids)
        self._num_cached_tokens = max(self._num_cached_tokens, delta.num_cached_tokens)
        if delta.finish_reason is not None:
            self._num_unfinished -= 1
        return None if self._num_unfinished else self.usage

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        return Usage(self._num_prompt_tokens, self._num_output_tokens, self._num_cached_tokens)
