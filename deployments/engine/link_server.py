"""The engine's end of the links: takes calls, sends frames.

All calls of one gateway ride on its one link. Each call is a task that puts
entries into the link's *outbox*, which goes out once in each turn of the event
loop. As the engine sets all its sequences going at the end of a step,
everything of one step goes out as one frame.

A link that ends, however it ends, aborts its calls: no gateway, no blocks held.

What the calls ask of the engine is counted, and told to all gateways (`load_book`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Protocol

from deployments.deltas import Coalescer
from deployments.engine.load_book import LoadBook, Stats, no_stats
from deployments.peer import PeerConnection
from deployments.types import Call, Delta
from deployments.wire import (
    Abort,
    Entry,
    Failure,
    Held,
    Submit,
    decode_uplink,
    encode,
    entry_of,
)
from infra.errors import CoterieError, NoReplicaError
from router.charge import LoadSum
from router.types import LoadReport

log = logging.getLogger(__name__)

# Of an answer that nobody reads in pieces: few enough that what is made of it counts
# for its tenant, should the client leave; so many that it costs next to nothing.
_NUM_TOKENS_TOGETHER = 32


class CallRunner(Protocol):
    """What the link needs of an engine; `Engine` is the real one."""

    def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """Deltas of the call, each with whether it is the last.

        Closing the generator aborts the call. Raises CoterieError.
        """
        ...


class LinkServer:
    """Listens for gateways; see the module's docstring."""

    def __init__(self, engine: CallRunner, token: str, stats: Stats = no_stats) -> None:
        """`stats` gives what the engine counts itself; it is asked for each report."""
        self.load = LoadBook(stats)
        self._engine = engine
        self._token = token
        self._calls: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._is_draining = False
        self._server: asyncio.Server | None = None

    @property
    def num_open_calls(self) -> int:
        """Calls that the engine works on, from all gateways."""
        return len(self._calls)

    @property
    def num_held(self) -> int:
        """Sequences that wait at gateways, by what these said last."""
        return sum(link.num_held for link in self._links)

    async def start(self, host: str) -> int:
        """Listen on a free port of `host`; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._attach, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, and let the open ones run on for at most `timeout_s`."""
        self._is_draining = self.load.is_draining = True
        self.load.note_change()
        if self._calls:
            await asyncio.wait(self._calls, timeout=timeout_s)

    async def stop(self) -> None:
        """Close all links, aborting what still runs."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.connection.close()
        while self._calls:
            await asyncio.wait(self._calls)

    def check_invariants(self) -> None:
        """Those of the load."""
        self.load.check_invariants()

    def start_call(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Count the call among the open ones until it is done."""
        task = asyncio.create_task(run)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def deltas_of(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """What the engine makes of it. Raises NoReplicaError once this replica drains."""
        if self._is_draining:
            raise NoReplicaError("this engine replica is draining")
        return self._engine.run(call)

    def discard(self, link: "_Link") -> None:
        """Forget a link that has ended."""
        self._links.discard(link)

    def _attach(self) -> PeerConnection:
        link = _Link(self, self._token)
        self._links.add(link)
        return link.connection


class _Link:
    """The link to one gateway, with its calls; `deployments.peer.Handler`."""

    def __init__(self, server: LinkServer, token: str) -> None:
        self.connection = PeerConnection(token, "engine", self)
        self.num_held = 0
        self._server = server
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._outbox: list[Entry] = []
        self._load_part = LoadSum()

    def opened(self) -> None:
        """Tell the gateway of the load that is there already."""
        self._load_part = self._server.load.join(self._report)

    def received(self, data: bytes) -> None:
        """Start or abort a call, say. Raises msgspec.ValidationError for nonsense."""
        match decode_uplink(data):
            case Submit(seq, call, num_prefill_tokens):
                run = self._run(seq, call, num_prefill_tokens)
                task = self._calls[seq] = self._server.start_call(run)
                task.add_done_callback(lambda _: self._calls.pop(seq, None))
            case Abort(seq):
                if seq in self._calls:
                    self._calls[seq].cancel()
            case Held(num_sequences):
                self.num_held = num_sequences

    def ended(self) -> None:
        """The gateway is gone: abort all that it wanted."""
        self._server.discard(self)
        self._server.load.leave(self._report)
        for task in self._calls.values():
            task.cancel()

    async def _run(self, seq: int, call: Call, num_prefill_tokens: int) -> None:
        coalescer = Coalescer(0 if call.stream else _NUM_TOKENS_TOGETHER)
        load = self._server.load
        charge = load.begin(self._load_part, call, num_prefill_tokens)
        try:
            async for delta, is_last in self._server.deltas_of(call):
                is_finished = delta.finish_reason is not None
                charge.on_output(delta.index, len(delta.token_ids), is_finished=is_finished)
                load.note_change()
                due = coalescer.add(delta, is_last=is_last)
                if due is not None:
                    self._put(entry_of(seq, due, is_last))
        except CoterieError as error:
            self._put(_failed(seq, error))
        except Exception as error:  # the boundary of the call: the gateway must hear
            log.exception("call %s failed", call.request_id)
            self._put(_failed(seq, CoterieError(f"internal error: {type(error).__name__}")))
        finally:
            load.end(charge)

    def _report(self, report: LoadReport) -> None:
        self.connection.send(encode(report))

    def _put(self, entry: Entry) -> None:
        if not self._outbox:
            # By then all calls that the engine's step has woken have run.
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(entry)

    def _flush(self) -> None:
        entries, self._outbox = self._outbox, []
        self.connection.send(encode(entries))


def _failed(seq: int, error: CoterieError) -> Entry:
    failure = Failure(error.kind, error.message, error.param, error.retry_after_s)
    return Entry(seq, None, True, failure)
