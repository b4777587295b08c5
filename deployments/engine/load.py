"""What the engine core last said of its own load."""

from collections.abc import Sequence
from typing import Any

import msgspec
from vllm.v1.metrics.loggers import StatLoggerBase

from deployments.engine.load_book import EngineStats
from router.types import DraftCounts, KvRoom

_MEMORY_STEPS = 64


class TokenCounts(msgspec.Struct):
    """Tokens since the start; those of prompts that came from the prefix cache count as
    both."""

    prompt: int = 0
    cached: int = 0
    output: int = 0


class RankLoad(msgspec.Struct):
    """Of one data-parallel rank, as of its last step.

    `kv_usage` is the share of KV blocks that running sequences hold, in
    [0, 1]; blocks kept only for their prefix count as free.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0
    drafts: DraftCounts = DraftCounts()
    tokens: TokenCounts = msgspec.field(default_factory=TokenCounts)
    tokens_per_step: float = 1.0
    """That a sequence gets, on the average of about the latest `_MEMORY_STEPS` steps."""
    step_s: float = 0.0
    """From step to step of a sequence that decodes, over as many steps; 0 before the first."""

    def saw_step(self, num_running: int, drafts: DraftCounts) -> None:
        """A step of so many sequences, with what became of their drafts."""
        self.drafts = self.drafts.plus(drafts)
        tokens = 1 + drafts.num_accepted / max(1, num_running)
        self.tokens_per_step += (tokens - self.tokens_per_step) / _MEMORY_STEPS

    def saw_gaps(self, gaps_s: Sequence[float]) -> None:
        """So long after their last one sequences have got another step's tokens."""
        if gaps_s:
            mean_s = sum(gaps_s) / len(gaps_s)
            self.step_s += (mean_s - self.step_s) / (_MEMORY_STEPS if self.step_s else 1)


class EngineLoad:
    """Of all data-parallel ranks of an engine, which have equal shares of its KV cache."""

    def __init__(self) -> None:
        self._ranks: dict[int, RankLoad] = {}

    def of_rank(self, dp_rank: int) -> RankLoad:
        """To be written to after each step of the rank."""
        return self._ranks.setdefault(dp_rank, RankLoad())

    @property
    def kv_usage(self) -> float:
        """The share of all ranks' KV blocks that running sequences hold, in [0, 1]."""
        return sum(rank.kv_usage for rank in self._ranks.values()) / max(1, len(self._ranks))

    @property
    def drafts(self) -> DraftCounts:
        """Of all ranks."""
        total = DraftCounts()
        for rank in self._ranks.values():
            total = total.plus(rank.drafts)
        return total

    @property
    def tokens_per_step(self) -> float:
        """The mean of all ranks'."""
        ranks = self._ranks.values()
        return sum(rank.tokens_per_step for rank in ranks) / len(ranks) if ranks else 1.0

    @property
    def tokens(self) -> TokenCounts:
        """Of all ranks."""
        ranks = [rank.tokens for rank in self._ranks.values()]
        return TokenCounts(
            sum(rank.prompt for rank in ranks),
            sum(rank.cached for rank in ranks),
            sum(rank.output for rank in ranks),
        )

    @property
    def tpot_s(self) -> float:
        """From token to token of a sequence, the mean of all ranks; 0 where not known."""
        ranks = self._ranks.values()
        return sum(r.step_s / r.tokens_per_step for r in ranks) / len(ranks) if ranks else 0.0

    def stats(self, num_kv_tokens: int) -> EngineStats:
        """For the reports to gateways; the KV caches hold `num_kv_tokens` in all, 0 where
        that is not known."""
        num_free = round((1 - self.kv_usage) * num_kv_tokens)
        kv = KvRoom(num_free, num_kv_tokens) if num_kv_tokens else None
        num_running = sum(rank.num_running for rank in self._ranks.values())
        num_waiting = sum(rank.num_waiting for rank in self._ranks.values())
        return EngineStats(num_running, num_waiting, kv, self.drafts, self.tokens_per_step)


class LoadLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped here
    """Writes every step's numbers into one `RankLoad`.

    vLLM hands a rank's numbers to such a logger alone; it reports nothing anywhere.
    """

    def __init__(self, load: RankLoad) -> None:
        self._load = load

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:  # fmt: skip
        """Called by vLLM after each step."""
        if iteration_stats is not None:
            self._load.saw_gaps(iteration_stats.inter_token_latencies_iter)
            prompts = iteration_stats.prompt_token_stats
            self._load.tokens.prompt += prompts.total
            self._load.tokens.cached += prompts.cached_tokens
            self._load.tokens.output += iteration_stats.num_generation_tokens
        if scheduler_stats is not None:
            self._load.num_running = scheduler_stats.num_running_reqs
            self._load.num_waiting = scheduler_stats.num_waiting_reqs
            self._load.kv_usage = scheduler_stats.kv_cache_usage
            found = scheduler_stats.spec_decoding_stats
            drafts = DraftCounts()
            if found is not None:
                drafts = DraftCounts(
                    found.num_drafts, found.num_draft_tokens, found.num_accepted_tokens
                )
            self._load.saw_step(scheduler_stats.num_running_reqs, drafts)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
