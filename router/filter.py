"""Filter: which candidates may be chosen at all. Pure functions."""

from collections.abc import Sequence

from router.types import Candidate, RoutedRequest


def eligible(candidates: Sequence[Candidate], request: RoutedRequest) -> list[int]:
    """Positions of the candidates that are ready and, where any is, of those whose KV
    cache can hold the request now. Empty where none is ready."""
    ready = [i for i, c in enumerate(candidates) if c.state == "ready"]
    roomy = [i for i in ready if has_room(candidates[i], request)]
    return roomy or ready


def has_room(candidate: Candidate, request: RoutedRequest) -> bool:
    """Its KV cache can hold the request now; true where that is not known."""
    room_tokens = room_left_tokens(candidate, request)
    return room_tokens is None or room_tokens >= 0


def room_left_tokens(candidate: Candidate, request: RoutedRequest) -> int | None:
    """Free tokens of the KV cache once it holds the request; below 0 where it cannot.

    What open requests attend to and is not in the cache yet, being queued, takes room too.
    A prefix that the replica has is taken to be in use by others already, so that what is
    said to be impossible is. None where the room is not known.
    """
    kv, prefix = candidate.kv, candidate.prefix
    if kv is None:
        return None
    cached_tokens = max(prefix.device_tokens, prefix.host_tokens)
    new_tokens = max(0, request.num_prompt_tokens - cached_tokens)
    load, used_tokens = candidate.load, kv.total_tokens - kv.free_tokens
    waiting_tokens = min(load.queued_prefill_tokens, max(0, load.context_tokens - used_tokens))
    return kv.free_tokens - waiting_tokens - new_tokens - request.num_expected_tokens
