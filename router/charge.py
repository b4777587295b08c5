"""Running sums of load, and a request's part in them.

Gateways count what they have sent to a replica, and a replica what it got from each
gateway and from all: with the same sums, so that what one reports and the other has
reserved agree.

| what               | from            | to                                      |
|--------------------|-----------------|-----------------------------------------|
| prefill tokens     | the decision    | the first output, or the end            |
| a sequence, each   | the decision    | its last output, or the end             |
| the prompt's context | the decision  | the end                                 |
| an output's context | as it grows    | its last output, or the end             |
"""

from collections.abc import Sequence

from router.types import Load


class LoadSum:
    """A sum that charges add to and take from."""

    __slots__ = ("context_tokens", "num_sequences", "queued_prefill_tokens")

    def __init__(self) -> None:
        self.queued_prefill_tokens = 0
        self.num_sequences = 0
        self.context_tokens = 0

    @property
    def load(self) -> Load:
        """As it is at the moment."""
        return Load(self.queued_prefill_tokens, self.num_sequences, self.context_tokens)


class Charge:
    """The part of one request in `sums`, from its beginning to its `end`."""

    def __init__(self, sums: Sequence[LoadSum], load: Load) -> None:
        """It begins with `load`: its prefill, its outputs, its prompt."""
        self._sums = sums
        self._prefill_tokens = 0
        self._num_sequences = 0
        self._context_tokens = 0
        self._index_to_tokens: dict[int, int] = {}
        self._add(load.queued_prefill_tokens, load.num_sequences, load.context_tokens)

    @property
    def load(self) -> Load:
        """What it adds to each sum at the moment."""
        return Load(self._prefill_tokens, self._num_sequences, self._context_tokens)

    def on_output(self, index: int, num_tokens: int, *, is_finished: bool) -> None:
        """So many tokens more of an output, or its last."""
        if not is_finished:
            self._index_to_tokens[index] = self._index_to_tokens.get(index, 0) + num_tokens
            self._add(-self._prefill_tokens, 0, num_tokens)
            return
        held_tokens = self._index_to_tokens.pop(index, 0)
        self._add(-self._prefill_tokens, -min(1, self._num_sequences), -held_tokens)

    def end(self) -> None:
        """Give back what is left; nothing may be counted after it."""
        self._index_to_tokens.clear()
        self._add(-self._prefill_tokens, -self._num_sequences, -self._context_tokens)

    def _add(self, prefill_tokens: int, num_sequences: int, context_tokens: int) -> None:
        self._prefill_tokens += prefill_tokens
        self._num_sequences += num_sequences
        self._context_tokens += context_tokens
        for each in self._sums:
            each.queued_prefill_tokens += prefill_tokens
            each.num_sequences += num_sequences
            each.context_tokens += context_tokens
