"""Drafts for the sequences of many engines at once: pure but for the model's calls.

An engine *tells* what its sequences have said; what it is told latest is its *order*. A turn
makes one call of the model, for whatever comes first of

    1. sequences whose draft an order waits for: the next token of each, in one batch;
    2. a sequence that has more unread than can be read while an engine waits: a part of it;
    3. sequences of which a draft was given: the path goes on, as if all of it were accepted.

An order is answered when each of its drafts is as long as wanted, or not worth going on with;
at the latest when the engine's patience ends.
What is behind is not waited for: its draft comes when it has caught up.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from deployments.drafts.host.sequence import DraftedSequence, PathToken
from deployments.drafts.messages import Answer, AnswerRow, Tell, TellRow
from deployments.drafts.model.draft_model import Chunk, Said
from deployments.drafts.model.kv_pages import KvPages
from deployments.drafts.vocabulary import Vocabulary
from router.speculation.confidence import kind_of

MAX_IN_LINE_TOKENS = 32
"""What is read while an engine waits, of each sequence."""

CHUNK_TOKENS = 128
"""What is read of one sequence in a turn."""

STALE_TELLS = 64
"""When each engine has told so often since, on average, an order has served its purpose."""

Owner = TypeVar("Owner")


class Reads(Protocol):
    """A draft model."""

    pages: KvPages

    def read(self, chunks: Sequence[Chunk]) -> Said:
        """Read all chunks, and say what is likeliest after each."""


class DeskSettings(NamedTuple):
    """What bounds the work."""

    context_tokens: int
    """Latest tokens of a sequence that are read; it may grow to twice as many."""
    ahead_tokens: int
    """How far a path goes beyond the draft that was given."""


@dataclass(eq=False)
class _Order:
    """What an engine was told to have drafted, in the order of its tell."""

    tell: Tell
    sequences: list[DraftedSequence | None]
    """None: told of what the desk does not know."""
    number: int
    """How many were told up to this one."""
    due_s: float
    """When the engine waits for it no longer."""
    is_answered: bool = False
    no_room: set[int] = field(default_factory=set)
    """Positions of sequences that have no pages."""


class _Wanted(NamedTuple):
    """A sequence that is worked on."""

    order: _Order
    position: int
    sequence: DraftedSequence


class DraftDesk(Generic[Owner]):
    """Of one draft model. An owner is an engine's link. Not for several threads at once."""

    def __init__(
        self,
        model: Reads,
        vocabulary: Vocabulary,
        settings: DeskSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._settings = settings
        self._clock = clock
        self._sequences: dict[tuple[Owner, int], DraftedSequence] = {}
        """The one told least recently first."""
        self._orders: dict[Owner, _Order] = {}
        """The one told least recently first."""
        self._num_tells = 0
        self._token_s = 0.0
        self.num_tokens_read = 0
        self.num_turns = 0

    @property
    def num_sequences(self) -> int:
        """Sequences that are remembered."""
        return len(self._sequences)

    def tell(self, owner: Owner, tell: Tell) -> None:
        """The owner's order from here on; what was ordered before and not answered is not."""
        found = [self._told(owner, row) for row in tell.rows]
        self._num_tells += 1
        self._orders.pop(owner, None)
        due_s = self._clock() + tell.patience_s
        self._orders[owner] = _Order(tell, found, self._num_tells, due_s)
        self._let_go_of_the_stale()

    def forget(self, owner: Owner) -> None:
        """The owner is gone."""
        self._orders.pop(owner, None)
        for key in [key for key in self._sequences if key[0] == owner]:
            self._drop(key)

    def turn(self) -> bool:
        """One call of the model; False where there is nothing to do."""
        due = list(self._due())
        if due:
            self._step(due, is_timed=True)
            return True
        for wanted in self._each():
            if self._is_behind(wanted.sequence):
                self._catch_up(wanted)
                return True
        ahead = [wanted for wanted in self._each() if self._goes_ahead(wanted)]
        if ahead:
            self._step(ahead, is_timed=False)
        return bool(ahead)

    def answers(self) -> Iterator[tuple[Owner, Answer]]:
        """Those that are due, each once."""
        waited_for = {id(wanted.order) for wanted in self._due()}
        # What the next call of the model would make too late is answered before it.
        soon_s = self._clock() + self._token_s
        for owner, order in self._orders.items():
            is_due = id(order) not in waited_for or soon_s > order.due_s
            if is_due and not order.is_answered:
                order.is_answered = True
                rows = [self._answer(order, i) for i in range(len(order.sequences))]
                yield owner, Answer(order.tell.step, self._token_s, rows)

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        for sequence in self._sequences.values():
            sequence.check_invariants()
        self._model.pages.check_invariants(s.pages for s in self._sequences.values())
        known = {id(sequence) for sequence in self._sequences.values()}
        for order in self._orders.values():
            for position, wanted in enumerate(order.sequences):
                gives_way = position in order.no_room or not (wanted and wanted.said)
                assert id(wanted) in known or gives_way

    def _told(self, owner: Owner, row: TellRow) -> DraftedSequence | None:
        key = owner, row.sequence
        if row.is_fresh:
            self._drop(key)
            self._sequences[key] = DraftedSequence(row.num_before)
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return None
        self._sequences[key] = sequence
        if sequence.num_told != row.num_before:
            self._drop(key)
            return None
        sequence.say(row.token_ids.tolist(), self._vocabulary)
        if len(sequence.said) > 2 * self._settings.context_tokens:
            sequence.shorten(self._settings.context_tokens)
            self._model.pages.give_back(sequence.pages)
        return sequence

    def _let_go_of_the_stale(self) -> None:
        """What was ordered by an engine that tells no more: its sequences may give way."""
        owner, oldest = next(iter(self._orders.items()))
        num_since = self._num_tells - oldest.number
        if oldest.is_answered and num_since > STALE_TELLS * len(self._orders):
            del self._orders[owner]

    def _drop(self, key: tuple[Owner, int]) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self._model.pages.give_back(sequence.pages)

    def _each(self) -> Iterator[_Wanted]:
        for order in self._orders.values():
            for position, sequence in enumerate(order.sequences):
                if sequence is not None and sequence.said and position not in order.no_room:
                    yield _Wanted(order, position, sequence)

    def _due(self) -> Iterator[_Wanted]:
        for wanted in self._each():
            order, position, sequence = wanted
            length = order.tell.rows[position].max_tokens
            is_open = not order.is_answered and not self._is_behind(sequence)
            if is_open and self._is_worth_going_on(order, sequence, length):
                yield wanted

    def _goes_ahead(self, wanted: _Wanted) -> bool:
        order, position, sequence = wanted
        length = order.tell.rows[position].max_tokens + self._settings.ahead_tokens
        return self._settings.ahead_tokens > 0 and self._is_worth_going_on(
            order, sequence, length
        )

    def _is_behind(self, sequence: DraftedSequence) -> bool:
        num_tokens = len(sequence.said) + len(sequence.path)
        return num_tokens - sequence.num_read > MAX_IN_LINE_TOKENS

    def _is_worth_going_on(self, order: _Order, sequence: DraftedSequence, length: int) -> bool:
        if len(sequence.path) >= length or sequence.is_at_end:
            return False
        chance, rates = 1.0, order.tell.rates
        for token in sequence.path:
            chance *= rates[token.kind] if token.kind < len(rates) else 0.0
        return chance >= order.tell.least

    def _step(self, wanted: Sequence[_Wanted], *, is_timed: bool) -> None:
        """One token more for each."""
        chunks, stepped = [], []
        for each in wanted:
            unread = each.sequence.unread
            if self._has_room(each, len(unread)):
                sequence = each.sequence
                chunks.append(Chunk(unread, sequence.num_read, sequence.pages))
                stepped.append(each)
        if not chunks:
            return
        start_s = self._clock()
        said = self._read(chunks)
        if is_timed and all(len(chunk.token_ids) == 1 for chunk in chunks):
            self._token_s += (self._clock() - start_s - self._token_s) / 8
        for each, chunk, own_id, chance in zip(
            stepped, chunks, said.token_ids, said.chances, strict=True
        ):
            token_id = self._vocabulary.token_id(own_id)
            token = None if token_id is None else PathToken(own_id, token_id, kind_of(chance))
            each.sequence.go_on(token, len(chunk.token_ids))

    def _catch_up(self, wanted: _Wanted) -> None:
        """Read a part of what is unread; the last token is left for a step."""
        sequence = wanted.sequence
        unread = sequence.unread[:-1][:CHUNK_TOKENS]
        if self._has_room(wanted, len(unread)):
            self._read([Chunk(unread, sequence.num_read, sequence.pages)])
            sequence.num_read += len(unread)

    def _read(self, chunks: Sequence[Chunk]) -> Said:
        self.num_turns += 1
        self.num_tokens_read += sum(len(chunk.token_ids) for chunk in chunks)
        return self._model.read(chunks)

    def _has_room(self, wanted: _Wanted, num_tokens: int) -> bool:
        """Whether its pages have room for so many more; others may lose theirs for it."""
        sequence, pages = wanted.sequence, self._model.pages
        while not pages.grow(sequence.pages, sequence.num_read + num_tokens):
            idle = self._idle()
            if idle is None:
                wanted.order.no_room.add(wanted.position)
                return False
            self._drop(idle)
        return True

    def _idle(self) -> tuple[Owner, int] | None:
        """The sequence told least recently of those that nobody works on."""
        in_use = {id(each.sequence) for each in self._each()}
        return next((k for k, s in self._sequences.items() if id(s) not in in_use), None)

    def _answer(self, order: _Order, position: int) -> AnswerRow:
        sequence = order.sequences[position]
        if sequence is None:
            return AnswerRow(False, (), ())
        if self._is_behind(sequence):
            return AnswerRow(True, (), ())
        path = sequence.path[: order.tell.rows[position].max_tokens]
        return AnswerRow(
            True, [token.token_id for token in path], [token.kind for token in path]
        )
