"""A draft host's turns: take what engines tell, make one call of the model, answer what is due.

Between two calls of the model, some milliseconds apart, all links are looked at: what an
engine tells last counts, and what is drafted for it goes before what is drafted ahead.
"""

import time

from deployments.drafts import messages
from deployments.drafts.host.desk import DraftDesk
from experts.host.link_keeper import LinkKeeper
from experts.transport.errors import BadFrameError
from experts.transport.link import Link, LinkHub

_IDLE_S = 1.0


class DraftLoop:
    """All that one thread does. Properties are for any thread."""

    def __init__(self, hub: LinkHub, desk: DraftDesk[Link]) -> None:
        self._hub = hub
        self._desk = desk
        self._keeper = LinkKeeper(desk.forget)
        self._has_work = False
        self.turned_s = time.monotonic()
        """When the latest turn began."""
        self.num_engines = 0
        self.num_answers = 0
        self.busy_s = 0.0

    def turn(self) -> None:
        """Wait where there is nothing to do; do what there is."""
        self.turned_s = time.monotonic()
        ready = self._hub.wait(0.0 if self._has_work else _IDLE_S)
        found_s = time.monotonic()
        for link in ready:
            self._take(link)
        self._answer()
        self._has_work = self._desk.turn()
        self._answer()
        self._keeper.end_turn()
        self.num_engines = len(self._hub.links)
        self.busy_s += time.monotonic() - found_s

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other. Between turns."""
        self._desk.check_invariants()
        self._keeper.check_invariants(self._hub.links)

    def _take(self, link: Link) -> None:
        """All that the engine has told; only the last is worth drafting for, but each says
        something new."""
        while (frame := self._keeper.frame_of(link)) is not None:
            try:
                self._desk.tell(link, messages.read_tell(frame))
            except BadFrameError as error:
                self._keeper.drop(link, str(error))
                return
            link.release()

    def _answer(self) -> None:
        for link, answer in list(self._desk.answers()):
            self._keeper.send(link, messages.answer_bytes(answer))
            self.num_answers += 1
