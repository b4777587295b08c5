"""The gateway's end of a link: one per engine replica, for all its calls.

See `deployments.engine.link_server` for the other end. A link that breaks
fails its open calls with `ReplicaLostError`; it is tried again for as long as the
replica is listed. So does one from which nothing comes, since a replica reports its load every
second: its process, or its machine, stands still, while the kernel answers for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Self

from deployments.peer import PeerConnection
from deployments.replica_lost import ReplicaLostError
from deployments.types import Call, Delta
from deployments.wire import (
    MAX_REPORT_S,
    Abort,
    Entry,
    Failure,
    Held,
    Submit,
    decode_downlink,
    delta_of,
    encode,
)
from infra.errors import (
    CoterieError,
    DeadlineError,
    NoReplicaError,
    classes_by_kind,
)
from router.types import LoadReport

log = logging.getLogger(__name__)

_RECONNECT_S = 0.5
_MAX_SILENT_REPORTS = 15
"""That do not come, one after the other. Counted in turns of our own event loop: where that
stood still itself, one turn was missed, however long it was."""

OnBegun = Callable[[bool], None]
"""Told whether an engine has the call."""


class Inbox:
    """Entries of one call, from the link to whoever iterates the call."""

    def __init__(self) -> None:
        self._entries: deque[Entry | CoterieError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, entry: Entry | CoterieError) -> None:
        """Add one; never waits."""
        self._entries.append(entry)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Entry | CoterieError:
        """The oldest; waits for one."""
        while not self._entries:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._entries.popleft()


class Link:
    """The way to one engine replica, with the calls that ride on it.

    `opened`, `received` and `ended` are its connection's (`deployments.peer.Handler`).
    `on_change` is called whenever the link has come up or gone down, `on_report` with
    what the replica says of its load.
    """

    def __init__(
        self,
        address: str,
        token: str,
        on_change: Callable[[], None] = lambda: None,
        on_report: Callable[[LoadReport], None] = lambda _: None,
    ) -> None:
        self.address = address
        self._token = token
        self._on_change = on_change
        self._on_report = on_report
        self._is_up = asyncio.Event()
        self._next_seq = 0
        self._told_held = 0
        self._inboxes: dict[int, Inbox] = {}
        self._connection: PeerConnection | None = None
        self._has_ended = asyncio.Event()
        self._is_idle: asyncio.Event | None = None
        self._num_silent = 0
        self._listening: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._stay_connected())

    @property
    def is_up(self) -> bool:
        """The link stands; calls may be opened."""
        return self._is_up.is_set()

    @property
    def num_open_calls(self) -> int:
        """Calls of this gateway that are not finished."""
        return len(self._inboxes)

    async def wait_up(self) -> None:
        """Wait until the link stands."""
        await self._is_up.wait()

    async def run(
        self,
        call: Call,
        timeout_s: float,
        on_begun: OnBegun = lambda _: None,
        num_prefill_tokens: int | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Deltas of the call until its last. Closing early aborts it.

        `on_begun` is told when the call is on its way to the engine, and if that turns
        it away. `num_prefill_tokens` of the prompt are expected not to be cached there;
        None is all of them.

        Raises what the engine raised, ReplicaLostError where the link breaks,
        DeadlineError after `timeout_s`.
        """
        if num_prefill_tokens is None:
            num_prefill_tokens = len(call.read_token_ids)
        seq, inbox = self._open(call, num_prefill_tokens)
        on_begun(True)
        timer = asyncio.get_running_loop().call_later(
            timeout_s, inbox.put, DeadlineError(f"not finished within {timeout_s:g} s")
        )
        is_finished = False
        try:
            while not is_finished:
                entry = await inbox.take()
                if isinstance(entry, CoterieError):
                    raise entry
                is_finished = entry.is_last
                if entry.failure is not None:
                    error = _to_error(entry.failure)
                    if isinstance(error, NoReplicaError):
                        on_begun(False)
                    raise error
                yield delta_of(entry)
        finally:
            timer.cancel()
            if self._inboxes.pop(seq, None) is not None and not is_finished:
                self._send(encode(Abort(seq)))
            if self._is_idle is not None and not self._inboxes:
                self._is_idle.set()

    def tell_held(self, num_sequences: int) -> None:
        """So many wait at this gateway; told where the engine replica does not know it."""
        if self.is_up and num_sequences != self._told_held:
            self._send(encode(Held(num_sequences)))
            self._told_held = num_sequences

    async def close_when_idle(self) -> None:
        """Let the open calls end, then end the link. No new ones may come."""
        if self._inboxes:
            self._is_idle = asyncio.Event()
            await self._is_idle.wait()
        await self.close()

    async def close(self) -> None:
        """End the link; open calls fail."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all("the engine replica was taken away", was_silent=False)

    def check_invariants(self) -> None:
        """Calls are only open on numbers given out; a link that is down has none."""
        assert all(0 <= seq < self._next_seq for seq in self._inboxes)
        assert self.is_up or not self._inboxes

    def _open(self, call: Call, num_prefill_tokens: int) -> tuple[int, Inbox]:
        if not self.is_up:
            raise NoReplicaError("the engine replica is away; try again")
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        # A call that cannot be put into bytes must leave nothing behind.
        message = encode(Submit(seq, call, num_prefill_tokens))
        inbox = self._inboxes[seq] = Inbox()
        self._send(message)
        return seq, inbox

    def _send(self, message: bytes) -> None:
        if self._connection is not None:
            self._connection.send(message)

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._connect_once()
            except OSError as error:
                log.warning("no link to %s: %s", self.address, error)
            await asyncio.sleep(_RECONNECT_S)

    async def _connect_once(self) -> None:
        host, port = self.address.rsplit(":", 1)
        self._has_ended.clear()
        _, self._connection = await asyncio.get_running_loop().create_connection(
            lambda: PeerConnection(self._token, "gateway", self), host, int(port)
        )
        try:
            await self._has_ended.wait()
            log.warning("the link to %s broke", self.address)
        finally:
            self._connection.close()

    def opened(self) -> None:
        """The engine replica has proven itself: calls may be opened."""
        self._told_held = 0
        self._is_up.set()
        self._num_silent = 0
        self._listen()
        self._on_change()

    def received(self, data: bytes) -> None:
        """Hand a frame's entries to their calls, or a report on."""
        self._num_silent = 0
        message = decode_downlink(data)
        if isinstance(message, LoadReport):
            self._on_report(message)
            return
        for entry in message:
            # A call that was left early may still get a few entries.
            inbox = self._inboxes.get(entry.seq)
            if inbox is not None:
                inbox.put(entry)

    def ended(self) -> None:
        """The engine replica is gone, or refused this gateway."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        self._has_ended.set()
        self._is_up.clear()
        is_cut_off = self._connection is not None and self._connection.was_silent
        was_silent = is_cut_off or self._num_silent > _MAX_SILENT_REPORTS
        self._fail_all("the engine replica died or cannot be reached", was_silent=was_silent)
        self._on_change()

    def _listen(self) -> None:
        if self._num_silent > _MAX_SILENT_REPORTS:
            log.warning("nothing comes from %s any more: ending the link", self.address)
            if self._connection is not None:
                self._connection.abort()
            return
        self._num_silent += 1
        loop = asyncio.get_running_loop()
        self._listening = loop.call_later(MAX_REPORT_S, self._listen)

    def _fail_all(self, why: str, *, was_silent: bool) -> None:
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            error = ReplicaLostError(f"{why}; try again")
            error.was_silent = was_silent
            inbox.put(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _to_error(failure: Failure) -> CoterieError:
    cls = classes_by_kind().get(failure.kind, CoterieError)
    return cls(failure.message, param=failure.param, retry_after_s=failure.retry_after_s)
