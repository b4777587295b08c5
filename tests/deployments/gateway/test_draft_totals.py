"""What has become of drafts, over replicas that come and go."""

from prometheus_client import CollectorRegistry

from deployments.gateway.draft_totals import DraftTotals
from deployments.gateway.telemetry.draft_metrics import DraftMetrics
from router.types import DraftCounts, ReplicaId

A, B = ReplicaId("a"), ReplicaId("b")


def test_each_report_counts_what_is_new_in_it() -> None:
    totals = DraftTotals()
    totals.take(A, DraftCounts(1, 4, 2))
    totals.take(B, DraftCounts(10, 20, 5))
    totals.take(A, DraftCounts(3, 12, 4))
    totals.take(A, DraftCounts(3, 12, 4))
    assert totals.total == DraftCounts(13, 32, 9)


def test_what_a_replica_that_is_gone_had_reported_stays() -> None:
    totals = DraftTotals()
    totals.take(A, DraftCounts(1, 4, 2))
    totals.forget(A)
    totals.take(B, DraftCounts(1, 1, 1))
    assert totals.total == DraftCounts(2, 5, 3)


def test_the_totals_are_read_at_the_scrape() -> None:
    totals = DraftTotals()
    registry = CollectorRegistry()
    registry.register(DraftMetrics({"tiny": totals}))
    totals.take(A, DraftCounts(3, 12, 4))
    found = {
        name: registry.get_sample_value(f"coterie_{name}_total", {"model": "tiny"})
        for name in ("drafts", "draft_tokens", "draft_accepted_tokens")
    }
    assert found == {"drafts": 3, "draft_tokens": 12, "draft_accepted_tokens": 4}
