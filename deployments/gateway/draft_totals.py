"""What has become of the drafts of a model's engines, as their reports say."""

from router.types import DraftCounts, ReplicaId


class DraftTotals:
    """Over all engine replicas that this gateway has had links to, also those that are gone."""

    def __init__(self) -> None:
        self.total = DraftCounts()
        self._latest: dict[ReplicaId, DraftCounts] = {}

    def take(self, replica_id: ReplicaId, counts: DraftCounts) -> None:
        """A replica's own, since its start."""
        before = self._latest.get(replica_id, DraftCounts())
        self._latest[replica_id] = counts
        self.total = self.total.plus(
            DraftCounts(
                counts.num_drafts - before.num_drafts,
                counts.num_tokens - before.num_tokens,
                counts.num_accepted - before.num_accepted,
            )
        )

    def forget(self, replica_id: ReplicaId) -> None:
        """It is gone, and will not report again; what it had reported stays in the total."""
        self._latest.pop(replica_id, None)
