"""Names of the index's keys in the server.

A *namespace* holds the index of one application's model. Its *incarnation* is one
life of its registry: a registry that is lost (evicted, flushed) comes back with
another incarnation, so that entries of the lost one are never read again.

| key | holds | hash tag |
|---|---|---|
| `{ciNNNNNN}r` | the registry of epochs | namespace |
| `{ciNNNNNN}s` | the event stream | namespace |
| `{ciNNNNNNIIISS}f` | the fence of a shard | namespace, incarnation, shard |
| `{ciNNNNNNIIISS}` + 7 bytes | the bitmap of one block | the same |

N: namespace, I: incarnation (base64url), S: shard (hex). The 7 bytes are the low 56
bits of the hash, most significant first. All blocks of a chain have one hash tag, so
a clustered server has them on one node.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.types import NUM_SHARDS, BlockGroup, Hashes

KEY_PATTERN = "{ci*"
"""All keys of all namespaces, as an ACL rule names them."""

_LAYOUT = b"1"
_NAMESPACE_CHARS = 6
_INCARNATION_CHARS = 3
_SHARD_SHIFT = np.uint64(56)
_LOW_BYTES = 7
_HEX = np.array([list(b"%02x" % shard) for shard in range(NUM_SHARDS)], np.uint8)
_FROM_HEX = np.zeros(256, np.uint64)
_FROM_HEX[list(b"0123456789abcdef")] = np.arange(16, dtype=np.uint64)
_PREFIX_BYTES = 3 + _NAMESPACE_CHARS + _INCARNATION_CHARS
_ENTRY_BYTES = _PREFIX_BYTES + 3 + _LOW_BYTES


@dataclass(frozen=True)
class Namespace:
    """Where one index lies in the server."""

    tag: bytes

    @classmethod
    def of(cls, app_name: str, model: str, groups: Sequence[BlockGroup]) -> "Namespace":
        """The namespace of an application's model, cached in blocks of these groups."""
        layout = [f"{g.kind}:{g.block_size}:{g.window_tokens}" for g in groups]
        digest = hashlib.blake2b(_LAYOUT, digest_size=5)
        for field in (app_name, model, *layout):
            text = field.encode()
            digest.update(len(text).to_bytes(4, "little") + text)
        return cls(base64.urlsafe_b64encode(digest.digest())[:_NAMESPACE_CHARS])

    @property
    def registry_key(self) -> bytes:
        """Key of the registry of epochs."""
        return b"{ci%b}r" % self.tag

    @property
    def stream_key(self) -> bytes:
        """Key of the event stream, in the registry's slot."""
        return b"{ci%b}s" % self.tag

    @property
    def pattern(self) -> bytes:
        """Glob pattern of all its keys, of all incarnations."""
        return b"{ci%b*" % self.tag


def new_incarnation(entropy: bytes) -> bytes:
    """Name of an incarnation, made of random bytes (3 or more)."""
    return base64.urlsafe_b64encode(entropy)[:_INCARNATION_CHARS]


@dataclass(frozen=True)
class EntryKeys:
    """Keys of the entries of one incarnation of a namespace."""

    namespace: Namespace
    incarnation: bytes

    @property
    def pattern(self) -> bytes:
        """Glob pattern of the incarnation's keys, fences among them."""
        return self._prefix + b"*"

    @property
    def _prefix(self) -> bytes:
        return b"{ci%b%b" % (self.namespace.tag, self.incarnation)

    def fence_key(self, shard: int) -> bytes:
        """Key of a shard's fence."""
        return b"%b%02x}f" % (self._prefix, shard)

    def pack(self, hashes: Hashes) -> list[bytes]:
        """The key of each hash. Shape: [num_hashes]."""
        rows = np.empty((len(hashes), _ENTRY_BYTES), np.uint8)
        rows[:, :_PREFIX_BYTES] = np.frombuffer(self._prefix, np.uint8)
        rows[:, _PREFIX_BYTES : _PREFIX_BYTES + 2] = _HEX[shards_of(hashes)]
        rows[:, _PREFIX_BYTES + 2] = ord("}")
        wide = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
        rows[:, -_LOW_BYTES:] = wide[:, 1:]
        packed = rows.tobytes()
        return [packed[i : i + _ENTRY_BYTES] for i in range(0, len(packed), _ENTRY_BYTES)]

    def select(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of the keys that are this incarnation's entries."""
        prefix = self._prefix
        return [key for key in keys if len(key) == _ENTRY_BYTES and key.startswith(prefix)]

    def orphans(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of the namespace's keys that other incarnations have left behind."""
        prefix, shared = self._prefix, b"{ci%b}" % self.namespace.tag
        mine = (prefix, shared)
        return [
            key
            for key in keys
            if len(key) in (_ENTRY_BYTES, _PREFIX_BYTES + 4) and not key.startswith(mine)
        ]


def unpack(keys: Sequence[bytes]) -> Hashes:
    """Hashes of entries, by their keys. Shape: [num_keys]."""
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _ENTRY_BYTES)
    digits = _FROM_HEX[rows[:, _PREFIX_BYTES : _PREFIX_BYTES + 2]]
    shards = digits[:, 0] * np.uint64(16) + digits[:, 1]
    wide = np.zeros((len(rows), 8), np.uint8)
    wide[:, 1:] = rows[:, -_LOW_BYTES:]
    low: Hashes = wide.view(">u8").reshape(-1).astype(np.uint64)
    return low | (shards << _SHARD_SHIFT)


def shards_of(hashes: Hashes) -> NDArray[np.intp]:
    """Shard of each hash. Shape: [num_hashes]."""
    return (hashes >> _SHARD_SHIFT).astype(np.intp)


def hash_tag(key: bytes) -> bytes:
    """The part of one of our keys that decides on its slot."""
    return key[: key.index(b"}") + 1]
