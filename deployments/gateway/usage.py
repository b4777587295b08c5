"""Counts the tokens of one request as its deltas pass by."""

from deployments.types import Delta, Usage


class UsageCounter:
    """Prompt, output and cached tokens of one request with `num_outputs` outputs.

    Where it has several prompts, each has `outputs_per_prompt` of them, in order.
    """

    def __init__(
        self, num_prompt_tokens: int, num_outputs: int, outputs_per_prompt: int | None = None
    ) -> None:
        self._outputs_per_prompt = outputs_per_prompt or num_outputs
        self._num_prompt_tokens = num_prompt_tokens
        self._num_unfinished = num_outputs
        self._num_output_tokens = 0
        self._prompt_to_num_cached: dict[int, int] = {}

    def add(self, delta: Delta) -> Usage | None:
        """Count one delta; the usage if it is the request's last."""
        self._num_output_tokens += len(delta.token_ids)
        if delta.num_cached_tokens:
            prompt = delta.index // self._outputs_per_prompt
            before = self._prompt_to_num_cached.get(prompt, 0)
            self._prompt_to_num_cached[prompt] = max(before, delta.num_cached_tokens)
        if delta.finish_reason is not None:
            self._num_unfinished -= 1
        return None if self._num_unfinished else self.usage

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        num_cached = sum(self._prompt_to_num_cached.values())
        return Usage(self._num_prompt_tokens, self._num_output_tokens, num_cached)
