"""A server that speaks OpenAI's HTTP interface: the session to it, and how it fails.

Shared by the commands that drive any such server. aiohttp's parser is compiled, so
that the client takes little of the machine that a local server runs on.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

import aiohttp

from coterie.errors import (
    CoterieError,
    DeadlineError,
    InvalidArgumentError,
    UnavailableError,
)
from coterie.hints import hinted
from coterie.security import Security, warn_of_plain_text
from infra.loopback import is_loopback

_READ_BUFFER_BYTES = 2**20  # an event is a line, and must fit into it twice
_CONNECT_TIMEOUT_S = 10.0
_URL_HINT = "if it runs elsewhere, name it: --url URL"
_TRUST_HINT = "--ca-file FILE names the authority to trust, where it is no public one"


@dataclass(frozen=True)
class HttpServer:
    """Where it is and how to enter. `url` is the base that OpenAI's clients take:
    `http://localhost:8000/v1`. `timeout_s` is for a whole answer; None for no limit.

    Raises InvalidArgumentError for a URL of another kind, or one in plain text where
    `security` asks for TLS; ConfigError for a file without certificates.
    """

    url: str
    security: Security = field(default_factory=Security)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InvalidArgumentError(
                f"the URL {self.url!r} must begin with http:// or https://", param="url"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        address = urlsplit(self.url)
        if address.scheme == "http" and self.security.has_tls:
            raise InvalidArgumentError(
                f"the URL {self.url} is plain text, and TLS or a certificate is asked for; "
                "begin it with https://",
                param="url",
            )
        host = address.hostname or ""
        if self.security.api_key and address.scheme == "http" and not is_loopback(host):
            warn_of_plain_text(host)
        _ = self._trust  # so that a wrong file is told before anything is sent

    @cached_property
    def session(self) -> aiohttp.ClientSession:
        """Made at the first call, because it belongs to the running loop; close it."""
        key = self.security.api_key
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=self.limits(self.timeout_s),
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust),
            read_bufsize=_READ_BUFFER_BYTES,
        )

    @staticmethod
    def limits(timeout_s: float | None) -> aiohttp.ClientTimeout:
        """For an answer that may take so long; a connection has its own limit."""
        return aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn what the transport raises into errors of ours."""
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise self.silent(_CONNECT_TIMEOUT_S) from error
        except TimeoutError as error:
            raise DeadlineError(
                f"the answer of {self.url} was not complete in the time given"
            ) from error
        except aiohttp.ClientSSLError as error:
            told = UnavailableError(f"no secure connection to {self.url}: {error}")
            raise hinted(told, _TRUST_HINT) from error
        except aiohttp.ClientConnectorError as error:
            told = UnavailableError(f"nothing answers at {self.url}: {error}")
            raise hinted(told, _URL_HINT) from error
        except (aiohttp.ClientError, OSError) as error:
            told = UnavailableError(
                f"the connection to {self.url} ended before the answer did: {error!r}"
            )
            raise hinted(told, _URL_HINT) from error
        except ValueError as error:
            raise CoterieError(f"{self.url} answered with no such event: {error}") from error

    def silent(self, after_s: float) -> UnavailableError:
        """The error of a server that has not answered for so long."""
        told = UnavailableError(f"nothing answers at {self.url} within {after_s:g} s")
        return hinted(told, _URL_HINT)

    @cached_property
    def _trust(self) -> ssl.SSLContext | bool:
        return self.security.ssl_context() or True
