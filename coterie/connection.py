"""What both clients know about the cluster they talk to."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from coterie.errors import (
    CallSite,
    CoterieError,
    FailedCall,
    InvalidArgumentError,
    UnavailableError,
    error_of,
)
from coterie.retry import DEFAULT_MAX_RETRIES, Attempts, check_max_retries
from coterie.security import Security, warn_of_plain_text
from coterie.v1 import inference_pb2_grpc
from infra.loopback import is_loopback

DEFAULT_ADDRESS = "localhost:9000"
DEFAULT_PORT = 9000

Metadata = Sequence[tuple[str, str]]

# A gateway that stands still, or is cut off, says nothing and ends nothing: it is asked for a
# sign of life, also where a stream is silent (without data gRPC asks twice, unless told
# otherwise). Gateways allow it every 10 s; gRPC's default for servers is 5 minutes.
# Reconnecting soon matters more than sparing a server that is away: gRPC alone would wait
# for up to 2 minutes.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    # Of all pings, those that measure the connection among them; a minute by default, during
    # which no other is sent.
    ("grpc.http2.ping_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Each client has a connection of its own; gRPC would share one among all
    # of a process, and so bind all to one gateway.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Connection:
    """Where a cluster is and how to enter; opening it is the clients' part.

    `credentials` turn TLS on; `metadata` goes with every call; `max_retries` is how
    often a request that has not begun is sent again. Raises `InvalidArgumentError`
    for an address that is no HOST:PORT.
    """

    address: str
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    max_retries: int = DEFAULT_MAX_RETRIES
    _answered: threading.Event = field(
        default_factory=threading.Event, init=False, repr=False, compare=False
    )
    """Somebody has: where nobody does later, one may come back."""

    def __post_init__(self) -> None:
        check_max_retries(self.max_retries)
        object.__setattr__(self, "address", _with_port(self.address))

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Channel options. An HTTP proxy of the environment is passed by on
        the way to this very machine."""
        if _is_loopback(self.address):
            return [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
        return list(_OPTIONS)

    def attempts(self, timeout_s: float | None) -> Attempts:
        """The tries of one request."""
        return Attempts(self.max_retries, timeout_s, answered=self._answered)

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """For the start of a call. Raises UnavailableError on a client that is closed."""
        try:
            yield
        except (ValueError, grpc.aio.UsageError) as error:
            raise UnavailableError(
                f"no call to {self.address} can begin: {error}; is the client closed?"
            ) from error

    def error(self, call: FailedCall, timeout_s: float | None) -> CoterieError:
        """The error that a failed call to this cluster stands for."""
        return error_of(call, CallSite(self.address, timeout_s, self._answered.is_set()))


def connection_to(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    metadata: Metadata,
    security: Security,
) -> Connection:
    """The connection that a client's arguments describe.

    Raises InvalidArgumentError for arguments that contradict each other,
    ConfigError for a file that cannot be read. A key that would go to another
    machine in plain text is warned of, once.
    """
    own = security.credentials()
    if own is not None and credentials is not None:
        raise InvalidArgumentError(
            "credentials have the certificates in them; give no files beside them",
            param="credentials",
        )
    chosen = credentials or own
    found = Connection(address, chosen, (*metadata, *security.metadata))
    if security.api_key and chosen is None and not _is_local(found.address):
        warn_of_plain_text(found.address)
    return found


def stub_on(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The generated stub; it is untyped, so each use names the type it expects."""
    return inference_pb2_grpc.InferenceStub(channel)


def _with_port(address: str) -> str:
    """The address with the default port where it has none."""
    if address.startswith(("http://", "https://")):
        raise InvalidArgumentError(
            f"the address {address!r} is for HTTP; give the gRPC one as HOST:PORT",
            param="address",
        )
    if "/" in address or address.startswith("unix:"):
        return address
    host = address.rpartition("]")[2]
    return address if ":" in host else f"{address}:{DEFAULT_PORT}"


def _is_loopback(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])


def _is_local(address: str) -> bool:
    return address.startswith("unix:") or _is_loopback(address)
