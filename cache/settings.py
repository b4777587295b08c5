"""This room's section of the configuration: the index of cached prefixes."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from infra.section import Section

Positive = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]
FilePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]

_SCHEMES = ("redis", "rediss", "unix")


def _server_url(url: str) -> str:
    """The URL, if it names a server and holds no secret; else ValueError, without it."""
    try:
        parts = urlsplit(url)
        has_secret = parts.password is not None or parts.username is not None
        _ = parts.port
    except ValueError:
        raise ValueError("no URL; write redis://HOST:PORT, rediss:// or unix://") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError("must begin with redis://, rediss:// (TLS) or unix://")
    if has_secret or "password" in parts.query:
        raise ValueError(
            "holds a user or a password; put them into username and password_file instead"
        )
    if not re.fullmatch(r"(db=\d+)?", parts.query) or parts.fragment:
        raise ValueError("has options; the keys beside it are for those")
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("names no server; write redis://HOST:PORT or unix:///PATH")
    return url


class CacheSection(Section):
    """The index of who has which prefix cached, and the Valkey or Redis that keeps it."""

    enabled: bool = True
    """Keep the index. Without it, requests are routed by load and by the hash of
    their prefix."""

    url: Annotated[str, AfterValidator(_server_url)] | None = None
    """The server: `redis://HOST:PORT`, `rediss://` for TLS, `unix:///PATH`; `?db=1` at
    the end names a database. Valkey, or Redis 7 and later, alone or clustered. Default: one
    that `coterie up` starts for a local cluster."""

    username: str | None = None
    """Its ACL user. Default: the server's default user."""

    password_file: FilePath | None = None
    """File whose first line is the password. It must be there on each node."""

    ca_file: FilePath | None = None
    """Authorities of the server's certificate (PEM), beside the system's."""

    certificate_file: FilePath | None = None
    """Certificate that the server asks of its clients (PEM)."""

    key_file: FilePath | None = None
    """Private key of that certificate (PEM)."""

    timeout_s: PositiveSeconds = 2.0
    """How long the server may take for one answer before it counts as away."""

    max_memory_bytes: Annotated[int, Field(ge=16 * 1024 * 1024)] = 512 * 1024 * 1024
    """Memory of the server that `coterie up` starts; beyond it old blocks are evicted.
    For one of your own set `maxmemory` and the policy `allkeys-lfu`. A block takes
    about 80 bytes, an entry of the stream at most 4 KiB."""

    lease_s: Annotated[float, Field(ge=1)] = 30.0
    """A cache that has not been heard of for this long counts as lost."""

    stream_length: Annotated[int, Field(ge=100)] = 10_000
    """Entries of the event stream. A gateway that is further behind reads the whole
    index anew."""

    entry_ttl_s: Positive | None = None
    """How long a block is kept in the server after it was stored. Default: until its
    cache says otherwise, since only that it was stored is told to the server, not
    that it is used; and it takes about 30 bytes more a block. Needed where a server that
    others use too evicts by a `volatile-` policy."""

    max_blocks: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """Blocks that a gateway's copy of a model's index holds."""

    max_pending_blocks: Annotated[int, Field(ge=1024)] = 1024 * 1024
    """Blocks whose changes an engine replica collects while the server is away. Beyond
    that they are dropped, and what it has cached is told anew once the server is back."""

    @model_validator(mode="after")
    def _tls_needs_its_scheme(self) -> "CacheSection":
        files = (self.ca_file, self.certificate_file, self.key_file)
        is_tls = self.url is not None and urlsplit(self.url).scheme == "rediss"
        if any(files) and not is_tls:
            raise ValueError(
                "ca_file, certificate_file and key_file are for TLS; write url as rediss://"
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together; give both")
        return self

    @model_validator(mode="after")
    def _a_login_needs_a_server(self) -> "CacheSection":
        if self.url is None and (self.username or self.password_file):
            raise ValueError(
                "username and password_file are for a server of your own; give its url"
            )
        if self.username is not None and self.password_file is None:
            raise ValueError("username is given without password_file; give both")
        return self
