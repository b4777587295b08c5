"""Which engine replicas are up, as Ray Serve tells its request routers.

Serve pushes every change of a deployment's running replicas, with the
metadata each recorded, to the request router inside each handle: within
milliseconds, and without polling. `ReplicaWatch` is such a router; it passes
the news on to whoever listens in this process. It routes only the few control
calls made through the handle.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

Metadata = Mapping[str, Any]
Listener = Callable[[Mapping[str, Metadata]], None]

_lock = threading.Lock()
_listeners: dict[str, Listener] = {}
_latest: dict[str, Mapping[str, Metadata]] = {}


def listen(deployment: str, listener: Listener) -> None:
    """Call `listener` with all running replicas (id to metadata) at each change.

    It is called at once if they are known, from whatever thread Serve's router
    runs in; it must not block.
    """
    with _lock:
        _listeners[deployment] = listener
        latest = _latest.get(deployment)
    if latest is not None:
        listener(latest)


class ReplicaWatch(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """A request router that reports the replicas and takes the first of them."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve with all running replicas."""
        super().update_replicas(replicas)
        deployment = self._deployment_id.name
        known = {r.replica_id.unique_id: dict(r.replica_metadata) for r in replicas}
        with _lock:
            _latest[deployment] = known
            listener = _listeners.get(deployment)
        if listener is not None:
            listener(known)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Any replica will do for a control call."""
        return [candidate_replicas]
