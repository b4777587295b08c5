"""Score: the work before a request's first token, in prompt tokens. Pure functions.

    cost =   prefill       prompt tokens that the replica does not have
           + host          host_weight     * those that it loads from host memory
           + queue         queue_weight    * prompt tokens of others before it
           + sequences     sequence_tokens * sequences that decode beside it / tokens that each
                           of them gets of a step: with drafts they are done the sooner
           + context       context_weight  * tokens that those attend to
           + kv_pressure   kv_pressure_tokens * (used - kv_watermark) / (1 - kv_watermark),
                           from the watermark on; used is the share of the KV cache in use
                           once it holds the request
           + adapter       adapter_tokens, where its adapter must be loaded first
           - session       session_tokens, where the session's last request was there
           - affinity      set by `consistent_hash` alone, see `router.policies`

Worked example: a prompt of 2,000 tokens; a has 1,600 of them cached, 900 tokens of other
prompts to compute and 4 sequences in decode, b is idle and has nothing. a costs
400 + 900 + 4 * 32 = 1,428, b 2,000: a is chosen. With 900 tokens more before it, b is.

The sum of prefill left and decode load is the cost of NVIDIA Dynamo's KV router; to weigh
a cached prefix against the load that it attracts is what Preble calls exploiting and
exploring (Srivatsa et al., "Preble: Efficient Distributed Prompt Scheduling for LLM
Serving", ICLR 2025); pressure, adapters and sessions are scorers in llm-d.
"""

from typing import NamedTuple

from router.filter import room_left_tokens
from router.settings import CostSection
from router.types import Candidate, Load, RoutedRequest


class Terms(NamedTuple):
    """The addends of a candidate's cost, in prompt tokens."""

    prefill: float
    host: float = 0.0
    queue: float = 0.0
    sequences: float = 0.0
    context: float = 0.0
    kv_pressure: float = 0.0
    adapter: float = 0.0
    session: float = 0.0
    """Not above 0."""
    affinity: float = 0.0
    """Not above 0."""

    @property
    def cost(self) -> float:
        """Their sum."""
        return sum(self)


def terms_of(
    candidate: Candidate, request: RoutedRequest, weights: CostSection, affinity: float = 0.0
) -> Terms:
    """What the request would cost at this candidate, term by term."""
    prefix, load = candidate.prefix, candidate.load
    host_tokens = max(0, prefix.host_tokens - prefix.device_tokens)
    new_tokens = request.num_prompt_tokens - prefix.device_tokens - host_tokens
    # In the order of the fields: by name it takes twice as long, for each candidate.
    return Terms(
        max(0, new_tokens),
        weights.host_weight * host_tokens,
        weights.queue_weight * load.queued_prefill_tokens,
        weights.sequence_tokens * load.num_sequences / candidate.tokens_per_step,
        weights.context_weight * load.context_tokens,
        0.0 if candidate.kv is None else kv_pressure(candidate, request, weights),
        0.0 if candidate.has_adapter else weights.adapter_tokens,
        -weights.session_tokens if candidate.is_last_of_session else 0.0,
        affinity,
    )


def load_tokens(load: Load, weights: CostSection) -> float:
    """A replica's load by itself: queue, sequences and context."""
    return (
        weights.queue_weight * load.queued_prefill_tokens
        + weights.sequence_tokens * load.num_sequences
        + weights.context_weight * load.context_tokens
    )


def prefill_tokens(candidate: Candidate, request: RoutedRequest, weights: CostSection) -> int:
    """Work of the request's prompt at this candidate: what it is charged with there."""
    terms = terms_of(candidate, request, weights)
    return round(terms.prefill + terms.host)


def kv_pressure(candidate: Candidate, request: RoutedRequest, weights: CostSection) -> float:
    """See the module; 0 where the room is not known. Beyond a full cache it grows on."""
    kv, left_tokens = candidate.kv, room_left_tokens(candidate, request)
    if kv is None or left_tokens is None or not kv.total_tokens:
        return 0.0
    over = 1 - left_tokens / kv.total_tokens - weights.kv_watermark
    return weights.kv_pressure_tokens * over / (1 - weights.kv_watermark) if over > 0 else 0.0
