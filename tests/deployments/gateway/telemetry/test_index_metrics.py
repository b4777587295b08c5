"""What a gateway tells of its copies of the prefix index."""

from pathlib import Path
from typing import cast

from prometheus_client.parser import text_string_to_metric_families as parse_text

from cache.mirror import Mirror
from cache.settings import CacheSection
from cache.types import BlockGroup
from deployments.gateway.prefix_index import PrefixIndex
from deployments.gateway.telemetry.metrics import GatewayMetrics
from deployments.gateway.telemetry.metrics_page import MetricsPage
from deployments.prefix_store import PrefixStore
from tests.builders.metadata_server import running, valkey


class OneIndex:
    """As much of a `PrefixIndex` as metrics read."""

    def __init__(self, mirror: Mirror | None) -> None:
        self.mirror = mirror


async def test_all_gateways_of_a_node_tell_of_their_indexes(tmp_path: Path) -> None:
    group = BlockGroup("full", 16)
    with running(valkey(), tmp_path) as server:
        store = PrefixStore(CacheSection(), server.url, "app")
        mirror = Mirror(store.of_model("m", [group]), [group])
        mirror.start()
        await mirror.wait_current()
        pages = []
        for name in ("one", "two"):
            metrics = GatewayMetrics(10)
            metrics.add_indexes({"tiny": cast(PrefixIndex, OneIndex(mirror))})
            pages.append(MetricsPage(metrics.registry, tmp_path / "peers", name))
            await pages[-1].start()
        text, _ = await pages[0].render("text/plain")
        for page in pages:
            await page.stop()
        await mirror.close()
        await store.close()
    samples = [s for family in parse_text(text.decode()) for s in family.samples]
    current = [s for s in samples if s.name == "coterie_prefix_index_current"]
    assert {s.labels["replica"]: s.value for s in current} == {"one": 1.0, "two": 1.0}
    assert {s.labels["model"] for s in current} == {"tiny"}


def test_an_index_without_a_mirror_tells_nothing() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_indexes({"tiny": cast(PrefixIndex, OneIndex(None))})
    found = metrics.registry.get_sample_value("coterie_prefix_index_current", {"model": "tiny"})
    assert found is None
