"""Draft replicas beside an engine, by `coterie up`: the same tokens, whatever befalls them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from coterie import Client
from tests.builders.cluster import RunningCluster
from tests.builders.otlp_receiver import OtlpReceiver
from tests.builders.traced_request import ask_traced, parts_of_steps
from tests.builders.until import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COMMON = {
    # In bfloat16 another order of sums can turn a near tie.
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 64 * 1024**2,
}
PROMPTS = [f"Chapter {number}. It was" for number in range(8)]
NUM_TOKENS = 200


@pytest.fixture(scope="module")
def cluster(
    small_llama: str,
    tmp_path_factory: pytest.TempPathFactory,
    traces: tuple[OtlpReceiver, str],
) -> Iterator[RunningCluster]:
    """The model drafts for itself, so that all drafts are right."""
    speculation = {
        "drafters": ["draft_model"],
        "draft": {"model": small_llama, "ahead_tokens": 4, "precision": "full"},
        "max_tokens": 4,
        "length": "fixed",
    }
    models = [
        {"name": "plain", "model": small_llama} | COMMON,
        {"name": "drafted", "model": small_llama, "speculation": speculation} | COMMON,
    ]
    folder = tmp_path_factory.mktemp("drafts")
    telemetry = {"otlp_endpoint": traces[1], "trace_sampling_ratio": 0.0}
    with RunningCluster(folder, "drafts", models=models, telemetry=telemetry) as running:
        yield running


def said(client: Client, model: str, prompt: str) -> tuple[int, ...]:
    answer = client.generate_unary(
        prompt, model=model, temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True
    )
    return tuple(answer.outputs[0].token_ids)


def drafts(cluster: RunningCluster) -> dict[str, int]:
    [detail] = cluster.status()["engine-drafted"]["details"]
    found: dict[str, int] = detail["drafts"]
    return found


def replica(cluster: RunningCluster) -> dict[str, Any] | None:
    details = cluster.status()["drafts-drafted"]["details"]
    return details[0] if details else None


@pytest.fixture(scope="module")
def expected(cluster: RunningCluster) -> list[tuple[int, ...]]:
    with Client(cluster.address) as client:
        return [said(client, "plain", prompt) for prompt in PROMPTS]


def test_a_draft_model_gives_the_same_greedy_text_in_fewer_steps(
    cluster: RunningCluster, expected: list[tuple[int, ...]]
) -> None:
    with Client(cluster.address) as client:
        assert [said(client, "drafted", prompt) for prompt in PROMPTS] == expected
    found = drafts(cluster)
    assert found["num_accepted"] > 0.9 * found["num_tokens"] > 0
    assert found["num_accepted"] > 0.5 * len(PROMPTS) * NUM_TOKENS


def test_a_traced_request_shows_steps_and_what_was_drafted_in_them(
    cluster: RunningCluster, traces: tuple[OtlpReceiver, str]
) -> None:
    receiver, _ = traces
    ask_traced(cluster.http_url, "drafted", max_tokens=200)
    drafted = parts_of_steps(receiver, "drafted", "draft")
    assert all(span.attributes["coterie.draft.sequences"] <= 1 for span in drafted)
    assert max(span.attributes["coterie.draft.tokens"] for span in drafted) <= 4


def test_status_shows_what_became_of_drafts_and_the_replica_that_made_them(
    cluster: RunningCluster, expected: list[tuple[int, ...]]
) -> None:
    made_by = replica(cluster)
    assert made_by is not None
    page = cluster.coterie("status", "-f", str(cluster.file))
    assert "drafts of drafted: " in page
    assert made_by["replica_id"] in page


def test_a_draft_replica_killed_under_load_costs_no_request_and_drafts_come_back(
    cluster: RunningCluster, expected: list[tuple[int, ...]]
) -> None:
    before = replica(cluster)
    assert before is not None
    with Client(cluster.address) as client, ThreadPoolExecutor(len(PROMPTS)) as threads:
        answers = [threads.submit(said, client, "drafted", prompt) for prompt in PROMPTS]
        time.sleep(0.3)
        psutil.Process(before["pid"]).kill()
        assert [answer.result() for answer in answers] == expected

        def is_replaced() -> bool:
            after = replica(cluster)
            return after is not None and after["pid"] != before["pid"]

        wait_until(is_replaced, 120)
        counted = drafts(cluster)["num_accepted"]

        def drafts_come() -> bool:
            assert said(client, "drafted", PROMPTS[0]) == expected[0]
            return drafts(cluster)["num_accepted"] > counted

        wait_until(drafts_come, 120)


def test_a_draft_replica_that_hangs_costs_no_request(
    cluster: RunningCluster, expected: list[tuple[int, ...]]
) -> None:
    found = replica(cluster)
    assert found is not None
    process = psutil.Process(found["pid"])
    process.suspend()
    try:
        with Client(cluster.address) as client, ThreadPoolExecutor(len(PROMPTS)) as threads:
            answers = threads.map(lambda p: said(client, "drafted", p), PROMPTS)
            assert list(answers) == expected
    finally:
        process.resume()
