"""Deltas of one output, joined: pieces that nobody reads one by one travel together."""

import msgspec

from deployments.types import Delta


def join(pieces: list[Delta]) -> Delta:
    """All pieces of one output, in order, as one delta."""
    last = pieces[-1]
    if len(pieces) == 1:
        return last
    logprobs = tuple(each for piece in pieces for each in piece.logprobs or ())
    return msgspec.structs.replace(
        last,
        text="".join(piece.text for piece in pieces),
        token_ids=[token_id for piece in pieces for token_id in piece.token_ids],
        logprobs=logprobs or None,
    )


class Coalescer:
    """Holds each output's deltas back until they have `num_tokens` tokens, or it ends."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._held: dict[int, list[Delta]] = {}
        self._num_held: dict[int, int] = {}

    def add(self, delta: Delta, *, is_last: bool) -> Delta | None:
        """The output's held deltas and this one as one delta, if it is time."""
        held = self._held.setdefault(delta.index, [])
        held.append(delta)
        num_held = self._num_held.get(delta.index, 0) + len(delta.token_ids)
        self._num_held[delta.index] = num_held
        is_end = is_last or delta.finish_reason is not None
        if not is_end and num_held < self._num_tokens:
            return None
        del self._held[delta.index], self._num_held[delta.index]
        return join(held)
