"""Where a hub listens: `unix:///PATH` on the same node, `tcp://HOST:PORT` between nodes."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from infra.errors import ConfigError

_MAX_PATH_BYTES = 107
"""What the kernel takes, less the zero at the end."""


@dataclass(frozen=True)
class UnixAddress:
    """A socket in a folder that only its owner may enter."""

    path: Path


@dataclass(frozen=True)
class TcpAddress:
    """A port; 0 means any."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """As it is written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse(text: str) -> Address:
    """Raises ConfigError for text that is no address."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{text!r} is no address") from None
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(f"{text!r} has more than an address has")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return _unix(parts.path)
    if parts.scheme == "tcp" and host and port is not None and not parts.path:
        return TcpAddress(host, port)
    raise ConfigError(f"{text!r} is no address; write unix:///PATH or tcp://HOST:PORT")


def _unix(path: str) -> UnixAddress:
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise ConfigError(
            f"{path} is longer than {_MAX_PATH_BYTES} bytes; choose a shorter one"
        )
    return UnixAddress(Path(path))
