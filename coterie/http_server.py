"""A server that speaks OpenAI's HTTP interface: the session to it, and how it fails.

Shared by the commands that drive any such server. aiohttp's parser is compiled, so
that the client takes little of the machine that a local server runs on.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from coterie.errors import (
    ConfigError,
    CoterieError,
    DeadlineError,
    InvalidArgumentError,
    UnavailableError,
)
from coterie.security import warn_of_plain_text
from infra.loopback import is_loopback

_READ_BUFFER_BYTES = 2**20  # an event is a line, and must fit into it twice
_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class HttpServer:
    """Where it is and how to enter. `url` is the base that OpenAI's clients take:
    `http://localhost:8000/v1`. `timeout_s` is for a whole answer; None for no limit.

    Raises InvalidArgumentError for a URL of another kind, ConfigError for a `ca_file`
    that holds no certificates.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InvalidArgumentError(
                f"the URL {self.url!r} must begin with http:// or https://", param="url"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        address = urlsplit(self.url)
        host = address.hostname or ""
        if self.api_key and address.scheme == "http" and not is_loopback(host):
            warn_of_plain_text(host)
        _ = self._trust  # so that a wrong file is told before anything is sent

    @cached_property
    def session(self) -> aiohttp.ClientSession:
        """Made at the first call, because it belongs to the running loop; close it."""
        key = self.api_key
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=aiohttp.ClientTimeout(
                total=self.timeout_s, sock_connect=_CONNECT_TIMEOUT_S
            ),
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust),
            read_bufsize=_READ_BUFFER_BYTES,
        )

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn what the transport raises into errors of ours."""
        try:
            yield
        except TimeoutError as error:
            raise DeadlineError(
                f"the answer of {self.url} was not complete in the time given"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(f"nothing answers at {self.url}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(
                f"the connection to {self.url} ended before the answer did: {error!r}"
            ) from error
        except ValueError as error:
            raise CoterieError(f"{self.url} answered with no such event: {error}") from error

    @cached_property
    def _trust(self) -> ssl.SSLContext | bool:
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file}: no certificates: {error}") from error
