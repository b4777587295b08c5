"""The engine's end of the links: takes calls, sends frames.

All calls of one gateway ride on its one link. Each call is a task that writes
entries to the link's *outbox*; the outbox hands over whatever has gathered
since the last frame. As the engine sets all its sequences going at the end of
a step, everything of one step goes out as one frame.

A link that ends, however it ends, aborts its calls: no gateway, no blocks held.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import grpc
import msgspec

from deployments.types import Call, Delta
from deployments.wire import (
    LINK_METHOD,
    TOKEN_KEY,
    Abort,
    Entry,
    Failure,
    Frame,
    Submit,
    decode_uplink,
    encode,
)
from infra.errors import CoterieError, NoReplicaError

log = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A peer whose machine is gone sends no reset: pings find out.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class CallRunner(Protocol):
    """What the link needs of an engine; `Engine` is the real one."""

    def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """Deltas of the call, each with whether it is the last.

        Closing the generator aborts the call. Raises CoterieError.
        """
        ...


class Outbox:
    """Entries on their way to one gateway, gathered until the link can send."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._filled = asyncio.Event()

    def put(self, entry: Entry) -> None:
        """Add one; never waits. Memory is bounded by the calls' own length."""
        self._entries.append(entry)
        self._filled.set()

    async def take(self) -> list[Entry]:
        """Everything gathered since the last call; waits for at least one."""
        await self._filled.wait()
        self._filled.clear()
        entries, self._entries = self._entries, []
        return entries


class LinkServer:
    """A gRPC server whose one method is a link; see the module's docstring."""

    def __init__(self, engine: CallRunner, token: str) -> None:
        self._engine = engine
        self._token = token.encode()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._server: grpc.aio.Server | None = None

    @property
    def num_open_calls(self) -> int:
        """Calls that the engine works on, from all gateways."""
        return len(self._calls)

    async def start(self, host: str) -> int:
        """Listen on a free port of `host`; returns the port."""
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        service, method = LINK_METHOD.strip("/").split("/")
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._attach
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        port = self._server.add_insecure_port(f"{host}:0")
        await self._server.start()
        return port

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, and let the open ones run on for at most `timeout_s`."""
        self._is_draining = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=timeout_s)

    async def stop(self) -> None:
        """Close all links, aborting what still runs."""
        if self._server is not None:
            await self._server.stop(grace=0)

    async def _attach(
        self, uplink: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes, None]:
        given = dict(context.invocation_metadata() or ()).get(TOKEN_KEY, "")
        if not hmac.compare_digest(str(given).encode(), self._token):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong link token")
        outbox = Outbox()
        calls: dict[int, asyncio.Task[None]] = {}
        reader = asyncio.create_task(self._read(uplink, outbox, calls))
        reader.add_done_callback(_log_failure)
        try:
            # Tells the gateway that the link stands.
            yield encode(Frame([], len(self._calls)))
            while True:
                yield encode(Frame(await outbox.take(), len(self._calls)))
        finally:
            reader.cancel()
            for task in calls.values():
                task.cancel()

    async def _read(
        self,
        uplink: AsyncIterator[bytes],
        outbox: Outbox,
        calls: dict[int, asyncio.Task[None]],
    ) -> None:
        async for data in uplink:
            for message in decode_uplink(data):
                match message:
                    case Submit(seq, call):
                        self._start(seq, call, outbox, calls)
                    case Abort(seq):
                        if seq in calls:
                            calls[seq].cancel()

    def _start(
        self, seq: int, call: Call, outbox: Outbox, calls: dict[int, asyncio.Task[None]]
    ) -> None:
        task = asyncio.create_task(self._run(seq, call, outbox))
        calls[seq] = task
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(lambda _: calls.pop(seq, None))

    async def _run(self, seq: int, call: Call, outbox: Outbox) -> None:
        try:
            if self._is_draining:
                raise NoReplicaError("this engine replica is draining")
            async for delta, is_last in self._engine.run(call):
                outbox.put(Entry(seq, delta, is_last))
        except CoterieError as error:
            outbox.put(_failed(seq, error))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the boundary of the call: the gateway must hear
            log.exception("call %s failed", call.request_id)
            outbox.put(_failed(seq, CoterieError(f"internal error: {type(error).__name__}")))


def _failed(seq: int, error: CoterieError) -> Entry:
    return Entry(seq, None, True, Failure(error.kind, error.message, error.param))


def _log_failure(reader: asyncio.Task[None]) -> None:
    """An uplink that breaks ends the link by itself; bad bytes are worth a line."""
    if not reader.cancelled() and isinstance(reader.exception(), msgspec.MsgspecError):
        log.error("a gateway sent what is no uplink message", exc_info=reader.exception())
