"""Draft hosts with a model that is none, each in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.drafts.host.desk import DeskSettings, DraftDesk
from deployments.drafts.host.loop import DraftLoop
from deployments.drafts.vocabulary import SameVocabulary
from experts.directory import HostCard
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from experts.types import HostId
from tests.deployments.drafts.host.fake_model import FakeModel

MODEL = "drafts-for-a-test"
LIMIT_S = 20.0
"""For what takes milliseconds, on a machine with other things to do."""


class DraftHostThread:
    """Serves from its making until `close`."""

    def __init__(self, folder: Path, name: str, num_pages: int, context_tokens: int) -> None:
        self.model = FakeModel(num_pages)
        self.failure: BaseException | None = None
        self._hub = Hub(Identity(name, MODEL))
        self.card = HostCard(HostId(name), (self._hub.listen(f"unix://{folder}/{name}"),))
        desk: DraftDesk[Link] = DraftDesk(
            self.model, SameVocabulary(), DeskSettings(context_tokens, 0)
        )
        self.loop = DraftLoop(self._hub, desk)
        self._may_turn, self._stands_still = threading.Event(), threading.Event()
        self._may_turn.set()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing, as if at something long."""
        self._stands_still.clear()
        self._may_turn.clear()
        self._hub.wake()
        assert self._stands_still.wait(LIMIT_S)
        try:
            yield
        finally:
            self._may_turn.set()

    def end_soon(self) -> None:
        """After the turn that it is in, or is kept from."""
        self._is_closing = True

    def close(self) -> None:
        self.end_soon()
        self._may_turn.set()
        if self._thread.is_alive():
            self._hub.wake()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure

    def _run(self) -> None:
        try:
            while not self._is_closing:
                if not self._may_turn.is_set():
                    self._stands_still.set()
                    assert self._may_turn.wait(LIMIT_S)
                self.loop.turn()
                self.loop.check_invariants()
        except BaseException as error:
            self.failure = error
        finally:
            self._hub.close()
