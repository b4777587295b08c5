"""The engine's end of speculation: what vLLM asks for drafts after each step.

vLLM makes it from its configuration (method `custom_class`) and hands it the rows of its batch:
the tokens of each, and how many came last. It runs on the thread that computes, between two
steps, so whatever it takes is taken from the engine.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.drafts.in_engine import cpu_sampling
from deployments.drafts.in_engine.tier_source import open_source
from deployments.drafts.speculation_config import section_of
from infra.telemetry.tracing import child_span
from router.speculation.drafter import Drafter
from router.speculation.prompt_lookup import PromptLookup
from router.speculation.settings import SpeculationSection
from router.speculation.speculator import Row, Speculator
from router.speculation.suffix_counts import SuffixCounts

if TYPE_CHECKING:
    # The SDK is loaded only where something is traced.
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

_DRAFTERS: dict[str, Callable[[SpeculationSection], Drafter]] = {
    "prompt_lookup": lambda section: PromptLookup(section.min_match_tokens),
    "suffix_counts": lambda section: SuffixCounts(section.memory_bytes),
}


class Proposer:
    """Drafts for one engine's batch. What goes wrong here costs drafts, not answers."""

    def __init__(self, vllm_config: Any) -> None:
        section = section_of(vllm_config.additional_config)
        self._max_model_len = vllm_config.model_config.max_model_len
        drafters = [_DRAFTERS[d](section) for d in section.drafters if d in _DRAFTERS]
        source = None
        if section.has_draft_tier:
            source = open_source(vllm_config.model_config.model, section)
        self._speculator = Speculator(section, drafters, source)
        self._ended_s: float | None = None
        self._proposed_s = 0.0
        self._has_failed = False

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """vLLM asks every drafter to, before it verifies any draft; nothing is loaded here."""
        cpu_sampling.mend()

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """A draft for each row, empty where there is none.

        Shapes: [num_rows][num_new], [max_rows], [max_rows, max_model_len].
        """
        drafts: list[list[int]] = [[] for _ in sampled_token_ids]
        if self._has_failed:
            return drafts
        start_s = time.perf_counter()
        try:
            rows = [
                self._row(number, len(new), token_ids_cpu[number, : num_tokens_no_spec[number]])
                for number, new in enumerate(sampled_token_ids)
                if new
            ]
            is_whole = len(rows) == len(drafts)
            seconds = start_s - self._ended_s if self._ended_s and is_whole else None
            with child_span("draft") as span:
                found = self._speculator.propose(rows, seconds, self._proposed_s)
                if span is not None:
                    _tell(span, found)
            for row, draft in zip(rows, found, strict=True):
                drafts[row.row] = list(draft)
        except Exception:  # an engine lives without drafts
            log.exception("speculation ends here: proposing drafts failed")
            self._has_failed = True
            return [[] for _ in sampled_token_ids]
        self._ended_s = time.perf_counter()
        self._proposed_s = self._ended_s - start_s
        return drafts

    def _row(self, number: int, num_new: int, tokens: NDArray[np.int32]) -> Row:
        # The last token of all is the engine's own.
        return Row(number, tokens, num_new, max(self._max_model_len - len(tokens) - 1, 0))


def _tell(span: "Span", drafts: Sequence[Sequence[int]]) -> None:
    span.set_attributes(
        {
            "coterie.draft.sequences": sum(map(bool, drafts)),
            "coterie.draft.tokens": sum(map(len, drafts)),
        }
    )
