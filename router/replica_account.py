"""One engine replica's load, as one gateway reckons it.

What this gateway has sent there it knows exactly and at once: it has reserved it. What
others have sent it knows from the replica's reports, as of a moment ago. A report says
how much of the total is this gateway's own, so nothing is counted twice:

    load = own reservations + (reported total - reported own part)

Worked example: two gateways have each sent a prompt of 1,000 tokens, and the report that
arrives says total 1,000, own 0 (one's own call is still on its way): the load is
1,000 + (1,000 - 0) = 2,000, as it is in truth.
"""

from router.charge import LoadSum
from router.types import (
    NO_LOAD,
    Candidate,
    KvRoom,
    Load,
    LoadReport,
    ReplicaId,
    ReplicaState,
    RoutedRequest,
    UsablePrefix,
)


class ReplicaAccount:
    """See the module. Times are of one monotonic clock, in seconds."""

    def __init__(self, replica_id: ReplicaId, max_age_s: float) -> None:
        """A report counts for `max_age_s`."""
        self.replica_id = replica_id
        self.state: ReplicaState = "away"
        self.num_chosen = 0
        self.own = LoadSum()
        self._max_age_s = max_age_s
        self._adapters: set[str] = set()
        self._others = NO_LOAD
        self._kv: KvRoom | None = None
        self._tokens_per_step = 1.0
        self._fresh_until_s: float | None = None

    def take_report(self, report: LoadReport, now_s: float) -> None:
        """The replica's latest word."""
        self._others = report.total.minus(report.own)
        self._kv = report.kv
        self._tokens_per_step = report.tokens_per_step
        self._adapters = set(report.adapters)
        self._fresh_until_s = now_s + self._max_age_s

    def forget_report(self) -> None:
        """The link broke: what it said holds no more, and it may have been restarted."""
        self._others, self._kv, self._fresh_until_s = NO_LOAD, None, None
        self._adapters.clear()

    def note_adapter(self, adapter: str | None) -> None:
        """A call for it is on its way: it is as good as loaded."""
        if adapter is not None:
            self._adapters.add(adapter)

    def is_fresh(self, now_s: float) -> bool:
        """The latest report is not too old."""
        return self._fresh_until_s is not None and now_s <= self._fresh_until_s

    def load(self, now_s: float) -> Load:
        """Own reservations, and what others have there as far as it is known."""
        own = self.own.load
        return own.plus(self._others) if self.is_fresh(now_s) else own

    def candidate(
        self,
        request: RoutedRequest,
        prefix: UsablePrefix,
        last_of_session: ReplicaId | None,
        now_s: float,
    ) -> Candidate:
        """How the replica stands for this request at this moment."""
        is_fresh = self.is_fresh(now_s)
        return Candidate(
            self.replica_id,
            self.state,
            prefix,
            self.load(now_s),
            self._kv if is_fresh else None,
            request.adapter is None or request.adapter in self._adapters,
            last_of_session == self.replica_id,
            self.num_chosen,
            is_fresh,
            self._tokens_per_step if is_fresh else 1.0,
        )
