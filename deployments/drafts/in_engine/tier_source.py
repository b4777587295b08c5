"""The engine's end of the draft tier: a link to one draft replica.

Nothing here waits but `give`, as long as it may. A replica that is gone, or does not keep up,
costs drafts: the engine goes on without, dials again, ever more rarely, and tells another
replica, or the same one anew, all that it has to know.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.drafts import messages
from deployments.drafts.messages import Answer, Tell, TellRow
from deployments.drafts.tier_folder import draft_identity, folder_of_environment
from experts.directory import DirectoryFile, HostCard
from experts.transport.errors import BadFrameError, LinkTimeoutError, TransportError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link, LinkHub, LinkSettings
from infra.errors import ConfigError
from router.speculation.confidence import PRIOR_RATES
from router.speculation.draft_source import Terms, ToldRow
from router.speculation.settings import SpeculationSection
from router.speculation.types import Draft

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the directory is looked at, and how soon who was not reached is dialled again: at
first, and after twice as long each time, as an engine does nothing else while it dials."""

_SET_UP_S, _MAX_DIAL_PAUSE_S = 0.2, 16.0
_MAX_UNANSWERED = 8
"""Tells that a replica may leave unanswered: it is at something long, or hangs."""

_HANGS_S = 5.0
_MAX_ABSENT_TELLS = 512


@dataclass(slots=True)
class _Told:
    """What the replica was told of one sequence."""

    num_tokens: int
    first_tell: int
    """Since when it was not told anew."""
    last_tell: int


class TierSource:
    """See `DraftSource`. `name` is this engine's."""

    prior_rates: Sequence[float] = PRIOR_RATES

    def __init__(
        self,
        name: str,
        hub: LinkHub,
        directory: DirectoryFile,
        context_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._hub = hub
        self._directory = directory
        self._context_tokens = context_tokens
        self._clock = clock
        self._link: Link | None = None
        self._told: dict[int, _Told] = {}
        self._look_at_s = self._dial_at_s = -np.inf
        self._dial_pause_s = LOOK_S
        self._cards: Sequence[HostCard] = ()
        self._step = 0
        self._heard_step = 0
        self._heard_s = 0.0
        """When it last answered, or was told something while nothing was unanswered."""
        self._rows: Sequence[ToldRow] = ()
        """Of the latest tell, while its answer may still be given."""
        self._unanswered: dict[int, Sequence[ToldRow]] = {}
        """By step, the oldest first."""
        self.token_s = 0.0

    @property
    def is_linked(self) -> bool:
        """Whether there is a replica to tell."""
        return self._link is not None

    def tell(self, rows: Sequence[ToldRow], terms: Terms) -> None:
        """See `DraftSource`."""
        self._rows = ()
        self._look()
        if self._link is None:
            return
        try:
            self._drop_old_answers()
            num_unanswered = self._step - self._heard_step
            if num_unanswered >= _MAX_UNANSWERED:
                self._wait_for_the_slow()
                return
            if not num_unanswered:
                self._heard_s = self._clock()
            self._send(rows, terms)
        except LinkTimeoutError as error:
            log.debug("the draft replica does not keep up: %s", error)
        except TransportError as error:
            self._lose(str(error))

    def give(self, patience_s: float) -> Mapping[int, Draft]:
        """See `DraftSource`."""
        if self._link is None or not self._rows:
            return {}
        end_s = self._clock() + patience_s
        try:
            while True:
                while (answer := self._receive()) is not None:
                    if answer.step == self._step:
                        return self._drafts(answer)
                left_s = end_s - self._clock()
                if left_s <= 0:
                    return {}
                self._hub.wait(left_s)
        except TransportError as error:
            self._lose(str(error))
            return {}

    def close(self) -> None:
        """End the link."""
        self._hub.close()

    def _send(self, rows: Sequence[ToldRow], terms: Terms) -> None:
        assert self._link is not None
        self._step += 1
        rates = terms.rates.astype(np.float32)
        told = messages.rows_that_fit(
            map(self._tell_row, rows), len(rates), self._link.max_frame_bytes
        )
        frame = messages.tell_bytes(
            Tell(self._step, rates, terms.least, told, terms.patience_s)
        )
        self._link.reserve(len(frame), timeout_s=0.0)[:] = frame
        self._link.commit()
        self._rows = rows[: len(told)]
        self._unanswered[self._step] = self._rows
        for row, tell_row in zip(self._rows, told, strict=True):
            first = self._step
            if not tell_row.is_fresh:
                first = self._told[row.sequence].first_tell
            self._told[row.sequence] = _Told(len(row.tokens), first, self._step)
        if self._step % _MAX_ABSENT_TELLS == 0:
            oldest = self._step - _MAX_ABSENT_TELLS
            self._told = {n: told for n, told in self._told.items() if told.last_tell > oldest}

    def _tell_row(self, row: ToldRow) -> TellRow:
        known = self._told.get(row.sequence)
        num_tokens = len(row.tokens)
        is_fresh = known is None or num_tokens - known.num_tokens > self._context_tokens
        start = max(num_tokens - self._context_tokens, 0)
        if not is_fresh:
            assert known is not None
            start = known.num_tokens
        tokens = row.tokens[start:]
        return TellRow(row.sequence, start, is_fresh, row.max_tokens, tokens)

    def _receive(self) -> Answer | None:
        assert self._link is not None
        frame = self._link.receive()
        if frame is None:
            return None
        answer = messages.read_answer(frame)
        self._link.release()
        self._heard_step, self._heard_s = answer.step, self._clock()
        self.token_s = answer.token_s
        self._take_note(answer)
        return answer

    def _take_note(self, answer: Answer) -> None:
        """Of those whom the replica does not know; also in answers that come too late."""
        for step in [step for step in self._unanswered if step < answer.step]:
            del self._unanswered[step]
        rows = self._unanswered.pop(answer.step, None)
        if rows is None or len(rows) != len(answer.rows):
            raise BadFrameError("it answers something else than it was asked")
        for row, drafted in zip(rows, answer.rows, strict=True):
            told = self._told.get(row.sequence)
            if not drafted.is_known and told is not None and told.first_tell <= answer.step:
                del self._told[row.sequence]

    def _drop_old_answers(self) -> None:
        while self._receive() is not None:
            pass

    def _wait_for_the_slow(self) -> None:
        if self._clock() - self._heard_s > _HANGS_S:
            self._lose("it has not answered for long")

    def _drafts(self, answer: Answer) -> Mapping[int, Draft]:
        pairs = zip(self._rows, answer.rows, strict=True)
        return {
            row.sequence: Draft(drafted.token_ids, drafted.kinds)
            for row, drafted in pairs
            if drafted.token_ids
        }

    def _look(self) -> None:
        """For a replica, where there is none; for word that ours is leaving, else."""
        now_s = self._clock()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        try:
            cards = self._directory.cards()
        except ConfigError as error:
            log.warning("%s", error)
            return
        if self._link is not None and self._link.peer not in {card.host for card in cards}:
            self._lose("it has left")
        if cards != self._cards:
            self._cards, self._dial_at_s, self._dial_pause_s = cards, now_s, LOOK_S
        if self._link is None and now_s >= self._dial_at_s:
            self._dial_one_of(cards)

    def _dial_one_of(self, cards: Sequence[HostCard]) -> None:
        """The one that this engine's name leads to, so that engines spread over all."""
        for card in sorted(cards, key=lambda card: _rank(self._name, card.host)):
            for address in card.addresses:
                try:
                    self._link = self._hub.dial(address)
                except (TransportError, ConfigError) as error:
                    log.info("the draft replica %s does not answer: %s", card.host, error)
                    continue
                self._told.clear()
                self._heard_step = self._step
                self._dial_pause_s = LOOK_S
                log.info("drafts come from %s", self._link.peer)
                return
        self._dial_at_s = self._clock() + self._dial_pause_s
        self._dial_pause_s = min(2 * self._dial_pause_s, _MAX_DIAL_PAUSE_S)

    def _lose(self, why: str) -> None:
        assert self._link is not None
        log.warning("the draft replica %s is lost: %s", self._link.peer, why)
        self._link.close()
        self._link, self._rows = None, ()
        self._told.clear()
        self._unanswered.clear()


def open_source(model_path: str, section: SpeculationSection) -> TierSource:
    """For an engine of this model; the environment names its folder. Raises ConfigError."""
    folder = folder_of_environment()
    name = f"engine-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    hub = Hub(
        Identity(name, draft_identity(model_path)),
        LinkSettings(set_up_timeout_s=_SET_UP_S),
        folder.secret,
    )
    directory = DirectoryFile(folder.directory)
    return TierSource(name, hub, directory, section.draft.context_tokens)


def _rank(engine: str, host: str) -> bytes:
    """Highest random weight: where a replica leaves, only its own engines change.

    It must be a good hash: by a checksum two hosts' weights differ by the same bits for all
    engines, and of three hosts one gets half of them.
    """
    return hashlib.blake2b(f"{engine} {host}".encode(), digest_size=8).digest()
