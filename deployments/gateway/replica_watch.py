"""Which engine replicas are up, as Ray Serve tells its request routers.

Serve pushes every change of a deployment's running replicas, with the
metadata each recorded, to the request router inside each handle: within
milliseconds, and without polling. `ReplicaWatch` is such a router; it passes
the news on to `replica_feed`. It routes only the few control calls made
through the handle.

Serve copies this module by value into the gateway's process, so it must hold
no state of its own.
"""

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from deployments.gateway import replica_feed


class ReplicaWatch(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """A request router that reports the replicas and takes any of them."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve with all running replicas."""
        super().update_replicas(replicas)
        known = {r.replica_id.unique_id: dict(r.replica_metadata) for r in replicas}
        replica_feed.publish(self._deployment_id.name, known)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Any replica will do for a control call."""
        return [candidate_replicas]
