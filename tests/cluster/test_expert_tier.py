"""A mixture-of-experts model whose experts are on hosts of their own, by `coterie up`."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from coterie import Client
from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.moe_checkpoints import TINY_MODELS

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
}
PROMPTS = ("The capital of France is", "Water boils at", "def add(a, b):", "Roses are red,")


def write_model(folder: Path) -> Path:
    """Random weights of four experts in three layers, and a real tokenizer."""
    [mixtral] = [model for model in TINY_MODELS if model.name == "Mixtral"]
    replace(mixtral, settings=mixtral.settings | {"vocab_size": 49152}).write(folder)
    tokenizer = Path(resolve_model("smollm2-135m-instruct", STATE_DIR).path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder)
    return folder


def models(path: Path, experts: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "whole", "model": str(path)} | COMMON,
        {"name": "tiered", "model": str(path), "experts": experts} | COMMON,
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cluster(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    folder = tmp_path_factory.mktemp("tier")
    with RunningCluster(folder, "tier", models=models(model, EXPERTS)) as running:
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


def tokens(client: Client, model: str) -> list[tuple[int, ...]]:
    answers = [
        client.generate_unary(
            prompt, model=model, temperature=0, max_tokens=24, ignore_eos=True
        )
        for prompt in PROMPTS
    ]
    return [tuple(answer.outputs[0].token_ids) for answer in answers]


def settled(tier: dict[str, Any]) -> bool:
    return tier["state"] == "settled" and len(tier["hosts"]) == 2


def test_expert_hosts_give_the_same_greedy_text_as_the_engine(cluster: RunningCluster) -> None:
    tier = wait(cluster, settled)
    assert tier["num_copies"] == [[2] * 4] * 3
    with Client(cluster.address) as client:
        assert tokens(client, "tiered") == tokens(client, "whole")
    after = wait(cluster, lambda tier: any(h["num_requests"] for h in tier["hosts"]))
    assert after["is_covering"]


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


def test_other_hosts_in_the_place_of_all_give_the_same_text(
    cluster: RunningCluster, model: Path
) -> None:
    before = wait(cluster, settled)
    # Other cores for all: engines and hosts are replaced.
    cluster.change(models=models(model, EXPERTS | {"num_hosts": 1}))
    after = wait(cluster, lambda t: t["state"] == "settled" and len(t["hosts"]) == 1)
    assert after["num_copies"] == [[1] * 4] * 3
    assert not {h["host"] for h in after["hosts"]} & {h["host"] for h in before["hosts"]}
    with Client(cluster.address) as client:
        assert tokens(client, "tiered") == tokens(client, "whole")
