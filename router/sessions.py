"""Which replica had a session's last request."""

import hashlib
from collections import OrderedDict

from router.types import ReplicaId, SessionKey, TenantId


def session_key(tenant: TenantId, session_id: str) -> SessionKey:
    """Stands for a tenant's session: what clients write stays out of memory and wires."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (tenant, session_id):
        # With its length, so that two pairs of texts never read alike.
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return SessionKey(int.from_bytes(digest.digest(), "little"))


class Sessions:
    """The last replica of the latest `max_sessions` sessions."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._last: OrderedDict[SessionKey, ReplicaId] = OrderedDict()

    def last_replica(self, session: SessionKey | None) -> ReplicaId | None:
        """None where the session is new, or forgotten."""
        return None if session is None else self._last.get(session)

    def note(self, session: SessionKey | None, replica_id: ReplicaId) -> None:
        """The session's last request goes there; the one silent for longest may be
        forgotten for it."""
        if session is None:
            return
        self._last[session] = replica_id
        self._last.move_to_end(session)
        if len(self._last) > self._max_sessions:
            self._last.popitem(last=False)

    def check_invariants(self) -> None:
        """No more are kept than allowed."""
        assert len(self._last) <= self._max_sessions
