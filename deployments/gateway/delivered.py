"""What a client has of one output, and how the rest of it is fitted on."""

import msgspec

from deployments.types import Delivered, Delta
from infra.errors import EngineError


class OutputProgress:
    """One output of a call as far as it has been handed out.

    Holds its token ids: at most `max_tokens` of them.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.num_chars = 0
        self.is_finished = False

    def saw(self, delta: Delta) -> None:
        """The next piece goes out."""
        assert not self.is_finished
        self.token_ids += delta.token_ids
        self.num_chars += len(delta.text)
        self.is_finished = delta.finish_reason is not None

    def delivered(self) -> Delivered:
        """What a call that goes on behind it must know."""
        return Delivered(list(self.token_ids), self.num_chars)

    def check_invariants(self) -> None:
        """Text comes from tokens."""
        assert self.token_ids or not self.num_chars


class Replay:
    """Takes what has been delivered out of the same output made anew."""

    def __init__(self, delivered: Delivered) -> None:
        self._token_ids = delivered.token_ids
        self._num_seen = 0
        self._num_chars_left = delivered.num_chars

    def rest_of(self, delta: Delta) -> Delta | None:
        """What is new of the next piece; None where nothing is.

        Raises EngineError where the output comes out differently.
        """
        old = self._token_ids[self._num_seen : self._num_seen + len(delta.token_ids)]
        self._num_seen += len(old)
        num_chars = min(self._num_chars_left, len(delta.text))
        self._num_chars_left -= num_chars
        is_short = delta.finish_reason is not None and (
            self._num_seen < len(self._token_ids) or self._num_chars_left > 0
        )
        if delta.token_ids[: len(old)] != old or is_short:
            raise EngineError(
                "the engine replica died, and another one makes a different answer from the "
                "same request; try again"
            )
        rest = msgspec.structs.replace(
            delta,
            text=delta.text[num_chars:],
            token_ids=delta.token_ids[len(old) :],
            logprobs=delta.logprobs[len(old) :] if delta.logprobs else None,
        )
        is_new = rest.token_ids or rest.text or rest.finish_reason is not None
        return rest if is_new else None
