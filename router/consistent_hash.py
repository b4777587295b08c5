"""Which replicas a prompt belongs to without anybody knowing what they have cached.

Two keys name a replica each, by rendezvous hashing: the one with the highest mixture of
key and replica. Replicas that come or go take or leave only the keys that they win.

| key  | with a session                    | without                                  |
|------|-----------------------------------|------------------------------------------|
| near | the session                       | the prompt's beginning, of bounded length |
| far  | the prompt's beginning, bounded   | as much of the prompt as can be hashed   |

A beginning alone would not do: a system prompt that everybody uses would have one replica
only. Those who share it agree in the near key and are spread by the far one, so it is
used at the near replica while that has little to do, and everywhere else where it has much.

Of a prompt a power of two of tokens is hashed, at most what is allowed: a conversation
that grows keeps its keys but for when it has doubled.

Worked example: turns of 700 and 900 tokens of a conversation agree in both keys (512
tokens each); at 1,100 tokens the near key (of at most 512) is still the same, the far one
is of 1,024 tokens and new.

Two replicas by two keys of unequal length, the less loaded of them: after DualMap (Yuan et
al., "DualMap: Enabling Both Cache Affinity and Load Balancing for Distributed LLM
Serving", 2026). Rendezvous hashing: Thaler and Ravishankar, 1996.
"""

import hashlib
from array import array
from collections.abc import Sequence
from functools import lru_cache

from router.types import HashKeys, ReplicaId, SessionKey

_MASK = 2**64 - 1
_MAX_FAR_TOKENS = 8192
_FAR_SEED = 0x9E3779B97F4A7C15


def hash_keys(
    token_ids: Sequence[int],
    near_tokens: int,
    *,
    salt: str = "",
    session: SessionKey | None = None,
) -> HashKeys:
    """The keys of a prompt; `salt` stands for what else keeps caches apart.

    `near_tokens` bounds the beginning. Takes time in proportion to at most 8,192 tokens.
    """
    near_length = _power_of_two_within(min(len(token_ids), near_tokens))
    near = _digest(token_ids, near_length, salt)
    if session is not None:
        return HashKeys(session, near)
    far_length = _power_of_two_within(min(len(token_ids), _MAX_FAR_TOKENS))
    far = near if far_length == near_length else _digest(token_ids, far_length, salt)
    return HashKeys(near, far)


def replicas_of(
    keys: HashKeys, replica_ids: Sequence[ReplicaId]
) -> tuple[ReplicaId, ReplicaId | None]:
    """The near and the far replica, always two where there are two. Raises ValueError
    where there is none."""
    near = rendezvous(keys.near, replica_ids)
    others = [r for r in replica_ids if r != near]
    return near, rendezvous(keys.far ^ _FAR_SEED, others) if others else None


def rendezvous(key: int, replica_ids: Sequence[ReplicaId]) -> ReplicaId:
    """The replica that wins the key, whatever their order."""
    return max(replica_ids, key=lambda r: (_mixed(key ^ _replica_hash(r)), r))


def _digest(token_ids: Sequence[int], length: int, salt: str) -> int:
    content = array("I", token_ids[:length]).tobytes()
    found = hashlib.blake2b(content, digest_size=8, person=_person(salt)).digest()
    return int.from_bytes(found, "little")


@lru_cache(maxsize=1024)
def _person(salt: str) -> bytes:
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


@lru_cache(maxsize=4096)
def _replica_hash(replica_id: ReplicaId) -> int:
    digest = hashlib.blake2b(replica_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mixed(x: int) -> int:
    """The finalizer of SplitMix64: each bit of the result depends on each of x."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _power_of_two_within(limit: int) -> int:
    return 1 << (limit.bit_length() - 1) if limit else 0
