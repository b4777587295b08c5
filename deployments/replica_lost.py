"""What a call ends with when its engine replica is gone: nothing was wrong with the call.

It never reaches a client: `deployments.gateway.resume` carries the call on elsewhere, or
makes a plain `EngineError` of it.
"""

from infra.errors import EngineError


class ReplicaLostError(EngineError):
    """The engine replica that worked on the call died, left, or cannot be reached."""

    kind = "replica_lost"
    was_silent = False
    """Nothing came from it any more, and it may well be there: it is not the call that ended
    it."""
