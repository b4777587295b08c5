"""API keys: how they are made, what is kept of them, who a key stands for.

A *key* is `ct-` and 32 random bytes in base64url, 46 characters; the tenant has
it, nobody else. An *entry* is what the gateway keeps of a key: its SHA-256, its
tenant, when it ends. A *ring* is all entries, ready to be asked.

A plain SHA-256 is the right hash here. Salt and slow hashes protect words that
people choose, which can be guessed; 256 random bits cannot, at any speed, and a
slow hash would be paid at every request.

The ring finds the digest in a dict. The time that takes may tell something of the
digest's first bits, but nobody can choose a key for its digest without 2^256
tries, and a digest does not lead back to its key; the whole digest is compared by
`hmac.compare_digest` all the same, so that no later change makes time tell more.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from infra.errors import ConfigError, UnauthenticatedError
from infra.section import Section
from router.types import TenantId

KEY_PREFIX = "ct-"
"""By which tools that look for leaked secrets know a key."""

_NUM_RANDOM_BYTES = 32
_DIGEST = re.compile("[0-9a-f]{64}")
# Of a key's length, about: many a team's name begins with "ct-", or has it in a word.
_KEY = re.compile(r"(?<![A-Za-z0-9])ct-[A-Za-z0-9_-]{40,}")
# Shorter than a key, since a message may have cut it; a whole one may follow a letter
# there, as in the text of a line break: "\nct-".
_LIKE_A_KEY = re.compile(r"(?<![A-Za-z0-9])ct-[A-Za-z0-9_-]{20,}|ct-[A-Za-z0-9_-]{40,}")
_MAX_KEY_CHARS = 256
_ID_CHARS = 12


def new_key() -> str:
    """A key that nobody has had before."""
    return KEY_PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)


def sha256_of(key: str) -> str:
    """What is kept of a key, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def without_keys(text: str) -> str:
    """The text with `ct-...` where it has a key, or most of one: for messages and logs."""
    return _LIKE_A_KEY.sub(f"{KEY_PREFIX}...", text)


def read_time(given: str) -> datetime:
    """A day or a time as ISO 8601 writes it; without a zone, in UTC.

    Raises ValueError that says how to write it.
    """
    try:
        time = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError("write it as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _time(given: Any) -> Any:
    return read_time(given) if isinstance(given, str) else given


Time = Annotated[datetime, BeforeValidator(_time)]


def _digest(given: str) -> str:
    """A digest, else ValueError that does not show it: it may be a key by mistake."""
    if not _DIGEST.fullmatch(given):
        raise ValueError("is not 64 hexadecimal digits; `coterie key new` writes them")
    return given


def _no_key(given: str) -> str:
    """No key, else ValueError: what stands here is logged and shown."""
    if _KEY.search(given):
        raise ValueError("is a key, and would be seen; put its SHA-256 under sha256")
    return given


class KeyEntry(Section):
    """What is kept of one key."""

    tenant: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
        AfterValidator(_no_key),
    ]
    """Who sends it."""

    sha256: Annotated[str, AfterValidator(_digest)]
    """SHA-256 of the key, in hexadecimal digits."""

    label: Annotated[str, Field(max_length=128), AfterValidator(_no_key)] | None = None
    """What it is for, for people."""

    created: Time | None = None
    """When it was made; without a zone, in UTC."""

    expires: Time | None = None
    """From when on it is refused; without a zone, in UTC. Default: never."""

    is_operator: bool = False
    """It is the operator's: it may read what concerns all tenants (`/metrics`)."""

    @property
    def key_id(self) -> str:
        """Short name of the key, which tells nothing of it."""
        return self.sha256[:_ID_CHARS]


class Grant(NamedTuple):
    """Who a key stands for; `expires_s` is in seconds since 1970, None is never."""

    tenant: TenantId
    is_operator: bool
    expires_s: float | None
    digest: bytes


class KeyRing:
    """All valid keys, by digest. It never changes; a changed file makes a new one."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        """Raises ConfigError where a key is there twice."""
        self._grants: dict[bytes, Grant] = {}
        for entry in entries:
            grant = _grant(entry)
            if grant.digest in self._grants:
                raise ConfigError(f"the key {entry.key_id} is there twice; keep one entry")
            self._grants[grant.digest] = grant

    def __len__(self) -> int:
        return len(self._grants)

    def grant_of(self, key: str, now_s: float) -> Grant:
        """Who the key stands for. Raises UnauthenticatedError for an unknown key and
        for one that has expired. It takes some microseconds.
        """
        if len(key) > _MAX_KEY_CHARS:
            raise UnauthenticatedError(_UNKNOWN)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return self.grant_of_digest(digest, now_s)

    def grant_of_digest(self, digest: bytes, now_s: float) -> Grant:
        """The same for a key whose SHA-256 is known."""
        grant = self._grants.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            raise UnauthenticatedError(_UNKNOWN)
        if grant.expires_s is not None and now_s >= grant.expires_s:
            raise UnauthenticatedError("the API key has expired; ask the operator for another")
        return grant


_UNKNOWN = "the API key is not valid here; check it, or ask the operator for one"


def _grant(entry: KeyEntry) -> Grant:
    expires_s = None if entry.expires is None else entry.expires.timestamp()
    digest = bytes.fromhex(entry.sha256)
    return Grant(TenantId(entry.tenant), entry.is_operator, expires_s, digest)
