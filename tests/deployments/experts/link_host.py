"""An expert host without weights on a real link: a thread that speaks the frames."""

import threading

from experts.directory import HostCard
from experts.transport import control
from experts.transport.errors import TransportError
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from tests.experts.director.fleet import FakeHost


class LinkHost:
    """Serves one `FakeHost` from the call of `start` until `close`; orders are done at
    once, but for those of a host that is stubborn."""

    def __init__(self, fake: FakeHost, model: str, address: str, secret: str | None) -> None:
        self.fake = fake
        self.is_stubborn = False
        self.num_orders = 0
        self._hub = Hub(Identity(fake.host, model), None, secret)
        self.card = HostCard(fake.host, (self._hub.listen(address),))
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "LinkHost":
        self._thread.start()
        return self

    def close(self) -> None:
        # Its thread looks ten times a second; a hub that has ended must not be woken.
        self._is_closing = True
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._hub:
            while not self._is_closing:
                for link in self._hub.wait(0.1):
                    self._hear(link)

    def _hear(self, link: Link) -> None:
        try:
            while (frame := link.receive()) is not None:
                answers = self._answers(frame)
                del frame
                link.release()
                for answer in answers:
                    link.reserve(len(answer), 1.0)[:] = answer
                    link.commit()
        except TransportError:
            link.close()

    def _answers(self, frame: memoryview) -> list[bytes]:
        if control.kind_of(frame) == control.ASK:
            return [control.report_frame(self.fake.report())]
        self.num_orders += 1
        if self.is_stubborn:
            return []
        self.fake.inbox.append(control.read_order(frame))
        self.fake.begin()
        self.fake.finish()
        ended = self.fake.outbox.popleft()
        assert isinstance(ended, control.Ordered)
        return [control.ordered_frame(ended)]
