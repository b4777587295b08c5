"""A mixture-of-experts model whose experts are on hosts of their own, by `coterie up`."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from coterie import Client
from tests.builders.cluster import RunningCluster
from tests.builders.otlp_receiver import OtlpReceiver
from tests.builders.small_moe import write_small_moe
from tests.builders.traced_request import ask_traced, parts_of_steps

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COMMON = {
    # In bfloat16 another order of sums can turn a near tie.
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 64 * 1024**2,
}
EXPERTS = {
    "placement": "service",
    "num_hosts": 2,
    "slots_per_host": 4,
    "rebalance": {"min_copies": 2, "min_interval_s": 5.0},
    "autoscaling": {
        # What four streams make of it is above, and a request now and then is below.
        "target_busy_share": 0.02,
        "upscale_delay_s": 0,
        "downscale_delay_s": 2,
        "look_back_period_s": 4,
    },
}
PROMPTS = ("The capital of France is", "Water boils at", "def add(a, b):", "Roses are red,")


def models(path: Path, experts: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "whole", "model": str(path)} | COMMON,
        {"name": "tiered", "model": str(path), "experts": experts} | COMMON,
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_moe(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cluster(
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    traces: tuple[OtlpReceiver, str],
) -> Iterator[RunningCluster]:
    folder = tmp_path_factory.mktemp("tier")
    sections = models(model, EXPERTS)
    telemetry = {"otlp_endpoint": traces[1], "trace_sampling_ratio": 0.0}
    with RunningCluster(folder, "tier", models=sections, telemetry=telemetry) as running:
        yield running


def tier_of(cluster: RunningCluster) -> dict[str, Any]:
    """What the director says, once it has answered."""
    details = cluster.status()["director-tiered"]["details"]
    found: dict[str, Any] = details[0]["experts"] if details else {"state": "away"}
    return found


def wait(cluster: RunningCluster, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while not holds(tier := tier_of(cluster)):
        assert time.monotonic() < deadline, tier
        time.sleep(0.5)
    return tier


def said(client: Client, model: str, prompt: str) -> tuple[int, ...]:
    answer = client.generate_unary(
        prompt, model=model, temperature=0, max_tokens=24, ignore_eos=True
    )
    return tuple(answer.outputs[0].token_ids)


def tokens(client: Client, model: str) -> list[tuple[int, ...]]:
    return [said(client, model, prompt) for prompt in PROMPTS]


class Asking:
    """Has the prompts answered again and again while the block runs, four at once."""

    def __init__(self, client: Client, expected: list[tuple[int, ...]]) -> None:
        self._client = client
        self._expected = expected
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor(len(PROMPTS))
        self.pause_s = 0.0
        """Between an answer and the next request."""

    def __enter__(self) -> Self:
        asked = range(len(PROMPTS))
        self._counts = [self._threads.submit(self._ask, number) for number in asked]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._threads.shutdown()
        assert all(count.result() > 0 for count in self._counts)

    def _ask(self, number: int) -> int:
        count = 0
        while not self._is_over.wait(self.pause_s):
            assert said(self._client, "tiered", PROMPTS[number]) == self._expected[number]
            count += 1
        return count


def settled(tier: dict[str, Any]) -> bool:
    return tier["state"] == "settled" and len(tier["hosts"]) == 2


def test_expert_hosts_give_the_same_greedy_text_as_the_engine(cluster: RunningCluster) -> None:
    tier = wait(cluster, settled)
    assert tier["num_copies"] == [[2] * 4] * 3
    with Client(cluster.address) as client:
        assert tokens(client, "tiered") == tokens(client, "whole")
    after = wait(cluster, lambda tier: any(h["num_requests"] for h in tier["hosts"]))
    assert after["is_covering"]


def test_a_traced_request_shows_steps_and_the_dispatch_of_their_layers(
    cluster: RunningCluster, traces: tuple[OtlpReceiver, str]
) -> None:
    receiver, _ = traces
    ask_traced(cluster.http_url, "tiered", max_tokens=24)
    dispatched = parts_of_steps(receiver, "tiered", "dispatch")
    first = {s.attributes["coterie.dispatch.layer"]: s for s in dispatched[:3]}
    assert sorted(first) == [0, 1, 2]
    for span in dispatched:
        num_tokens = span.attributes["coterie.dispatch.tokens"]
        assert span.attributes["coterie.dispatch.num_pairs"] == 2 * num_tokens
        assert span.attributes["coterie.dispatch.compute_s"] > 0


def test_a_host_that_is_killed_costs_no_request_and_is_replaced(
    cluster: RunningCluster,
) -> None:
    before = wait(cluster, settled)
    victim = cluster.status()["experts-tiered"]["details"][0]
    with Client(cluster.address) as client:
        expected = tokens(client, "whole")
        psutil.Process(victim["pid"]).kill()
        assert tokens(client, "tiered") == expected
        gone = {victim["host"]}
        after = wait(
            cluster, lambda t: settled(t) and not gone & {h["host"] for h in t["hosts"]}
        )
        assert tokens(client, "tiered") == expected
    assert {h["host"] for h in after["hosts"]} != {h["host"] for h in before["hosts"]}
    assert after["num_copies"] == [[2] * 4] * 3


@pytest.mark.slow
def test_hosts_come_with_the_load_and_go_without_it_and_no_token_is_another(
    cluster: RunningCluster, model: Path
) -> None:
    # There may be as many as before, so engines and hosts keep their cores.
    limits = {"num_hosts": 1, "min_hosts": 1, "max_hosts": 2}
    cluster.change(models=models(model, EXPERTS | limits))
    with Client(cluster.address) as client:
        expected = tokens(client, "whole")
        wait(cluster, lambda tier: tier["state"] == "settled" and len(tier["hosts"]) == 1)
        with Asking(client, expected) as asking:
            grown = wait(cluster, settled)
            assert grown["num_copies"] == [[2] * 4] * 3
            asking.pause_s = 8.0
            shrunk = wait(
                cluster, lambda tier: tier["state"] == "settled" and len(tier["hosts"]) == 1
            )
    assert shrunk["num_copies"] == [[1] * 4] * 3
