"""`coterie explain`: what an operator reads of a decision."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from coterie.cli.main import cli
from deployments import operate
from deployments.gateway.decision_log import DecisionLog
from router.settings import CostSection
from router.types import KvRoom
from tests.router.routing import A, B, C, candidate, picked, request

CONFIG = """
cluster: {address: "auto"}
models: [{name: m, model: m}]
router: {max_explained_requests: 2000}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CONFIG)
    return path


def calls_of(request_id: str) -> list[dict[str, Any]]:
    """As the gateways give them: two calls of the request `two`."""
    log = DecisionLog("m", 10, CostSection(), now_s=lambda: 0.0)
    three = [
        candidate(A, prefix=900, queue=3000, running=2),
        candidate(B, prefix=200, kv=KvRoom(1500, 2000)),
        candidate(C, state="draining"),
    ]
    first = log.add("two-00000000", picked(three, "cost", request(1000)))
    log.note_cached(first, 192)
    log.add("two-00000001", picked(three, "consistent_hash", request(1000)))
    return [msgspec.to_builtins(call) for call in log.explain(request_id)]


@pytest.fixture(autouse=True)
def gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(operate, "connected", connected)
    monkeypatch.setattr(operate, "explain", lambda _app, request_id: calls_of(request_id))


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["explain", *arguments])


def test_each_call_has_its_replica_and_every_candidate_its_terms(file: Path) -> None:
    done = explain("two", "-f", str(file))
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["call", "1", "of"]
    assert lines[0][-5:] == ["m", "on", "b,", "by", "cost"]
    assert [" ".join(line) for line in lines[1:6]] == [
        "1,000 prompt tokens: 200 expected to be cached, 192 found",
        "replica cost prefill queue sequences cached running free KV",
        "b chosen 800 800 0 0 200 0 75%",
        "a 3,164 100 3,000 64 900 2 ?",
        "c draining 1,000 1,000 0 0 0 0 ?",
    ]
    assert "no output yet" in done.stdout


def test_json_has_all_of_it(file: Path) -> None:
    done = explain("two", "-f", str(file), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads(json.dumps(calls_of("two")))


def test_an_id_that_no_gateway_knows_is_told_with_how_many_are_kept(file: Path) -> None:
    done = explain("nobody", "-f", str(file))
    assert done.exit_code != 0
    text = f"{done.output}{done.exception}"
    assert "no gateway knows the request nobody" in text
    assert "latest 2,000" in text
