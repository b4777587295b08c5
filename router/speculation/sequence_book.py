"""Which sequence stands in which row of a batch, told by their tokens.

The engine gives rows of tokens and moves sequences between them without a word. A sequence is
known again by its length before the step's tokens and by its latest tokens; where two agree in
both they are as good as one, since all that is remembered of a sequence is how its text has
taken drafts so far.
"""

from dataclasses import dataclass

from router.speculation.types import NO_DRAFT, Draft, TokenIds

_NUM_TOLD_BY = 16


@dataclass(slots=True)
class SequenceState:
    """What is remembered of one sequence."""

    number: int
    """No other sequence of the engine's has it."""
    biases: list[float]
    """One a drafter: see `chances`."""
    num_tokens: int = 0
    mark: bytes = b""
    draft: Draft = NO_DRAFT
    """The latest, of which the engine was given `num_given` tokens."""
    drafter: int = 0
    num_given: int = 0
    last_step: int = 0


class SequenceBook:
    """The sequences of an engine's batch, and those that have just left it."""

    def __init__(self, num_drafters: int, max_absent_steps: int = 256) -> None:
        self._num_drafters = num_drafters
        self._max_absent_steps = max_absent_steps
        self._rows: list[SequenceState | None] = []
        self._by_mark: dict[tuple[int, bytes], SequenceState] = {}
        self._step = 0
        self._next_number = 0

    def next_step(self) -> None:
        """Forget who has been away for long."""
        self._step += 1
        if self._step % self._max_absent_steps == 0:
            oldest = self._step - self._max_absent_steps
            for key, state in list(self._by_mark.items()):
                if state.last_step < oldest:
                    del self._by_mark[key]

    def find(self, row: int, tokens: TokenIds, num_new: int) -> tuple[SequenceState, bool]:
        """The sequence in the row, and whether it was known. Shape: [num_tokens].

        The last `num_new` of its tokens have come in this step. No other row's sequence of
        this step is it.
        """
        before = len(tokens) - num_new
        while len(self._rows) <= row:
            self._rows.append(None)
        mark = tokens[max(before - _NUM_TOLD_BY, 0) : before].tobytes()
        state = self._rows[row]
        if state is None or state.num_tokens != before or state.mark != mark:
            state = self._by_mark.get((before, mark))
        # Of two that say the same, one a step later, the later may just have said as much.
        is_known = state is not None and state.last_step != self._step
        if state is None or not is_known:
            state = self._new()
        self._rows[row] = state
        if self._by_mark.get((state.num_tokens, state.mark)) is state:
            del self._by_mark[state.num_tokens, state.mark]
        state.num_tokens = len(tokens)
        state.mark = tokens[-_NUM_TOLD_BY:].tobytes()
        state.last_step = self._step
        self._by_mark[state.num_tokens, state.mark] = state
        return state, is_known

    def _new(self) -> SequenceState:
        self._next_number += 1
        return SequenceState(self._next_number, [0.0] * self._num_drafters)

    def states(self) -> list[SequenceState]:
        """All that are remembered."""
        return list(self._by_mark.values())

    def check_invariants(self) -> None:
        """Each sequence stands under its own mark."""
        for key, state in self._by_mark.items():
            assert key == (state.num_tokens, state.mark)
            assert len(state.biases) == self._num_drafters
            assert state.number <= self._next_number
