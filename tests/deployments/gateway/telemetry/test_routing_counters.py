"""What a scrape tells of routing."""

from deployments.gateway.decision_log import DecisionLog
from deployments.gateway.telemetry.metrics import GatewayMetrics
from router.settings import CostSection
from tests.router.routing import candidate, picked


def test_routing_decisions_are_counted_and_what_they_got_wrong() -> None:
    log = DecisionLog("tiny", 10, CostSection())
    for found in (40, 90):
        call = log.add("r-00000000", picked([candidate(prefix=64)]))
        log.note_cached(call, found)
    metrics = GatewayMetrics(10)
    metrics.add_routing({"tiny": log})
    value = metrics.registry.get_sample_value
    tiny = {"model": "tiny"}
    assert value("coterie_routing_decisions_total", tiny | {"policy": "cost"}) == 2
    assert value("coterie_expected_cached_prompt_tokens_total", tiny) == 128
    misjudged = "coterie_misjudged_cached_prompt_tokens_total"
    assert value(misjudged, tiny | {"error": "missed"}) == 24
    assert value(misjudged, tiny | {"error": "unexpected"}) == 26


def test_what_is_exported_is_described() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_routing({"tiny": DecisionLog("tiny", 10, CostSection())})
    described = metrics.described()
    names = {s.name for family in metrics.registry.collect() for s in family.samples}
    assert {n for n in names if "cached" in n} <= described.keys()
    assert described["coterie_routing_decisions_total"] == ("model", "policy")
