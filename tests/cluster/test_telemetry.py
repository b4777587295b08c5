"""What a real cluster tells of its requests: traces, metrics, logs, usage records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coterie import Client
from infra.telemetry.usage_record import decode_record
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.otlp_receiver import OtlpReceiver, receiving
from tests.builders.traced_request import CLIENT_SPAN, TRACE_ID, ask_traced

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
SECTION = {
    "name": MODEL,
    "model": MODEL,
    "enforce_eager": True,
    "max_model_len": 512,
    "kv_cache_memory_bytes": 128 * 1024**2,
}


class Told(NamedTuple):
    """What was told of one traced request and three others, read after the end."""

    receiver: OtlpReceiver
    answer: dict[str, Any]
    traceresponse: str
    page: str
    folder: Path
    log_lines: list[str]
    engine_log: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("telemetry")
    with receiving() as (receiver, endpoint):
        telemetry = {
            "otlp_endpoint": endpoint,
            "trace_sampling_ratio": 0.0,
            "log_format": "json",
            "access_log": True,
            "usage_dir": str(folder / "usage"),
        }
        with RunningCluster(
            folder,
            "telemetry",
            models=[SECTION],
            telemetry=telemetry,
            gateway={"num_replicas": 2},
        ) as cluster:
            answer, traceresponse = ask_traced(cluster.http_url, MODEL, max_tokens=6)
            for _ in range(3):
                with Client(cluster.address) as client:
                    client.generate_unary("Once upon", max_tokens=4)
            page = httpx2.get(f"{cluster.http_url}/metrics").text
            gateways, (engine_log,) = _logs("gateway"), _logs("engine-*")
        assert len(gateways) == 2
        lines = [line for log in gateways for line in log.splitlines()]
        yield Told(receiver, answer, traceresponse, page, folder / "usage", lines, engine_log)


def _logs(deployment: str) -> list[str]:
    """The log files of the deployment's replicas."""
    record = json.loads((STATE_DIR / "cluster-telemetry.json").read_text())
    logs = Path(record["temp_dir"], "session_latest", "logs", "serve")
    return [f.read_text() for f in logs.glob(f"replica_telemetry_{deployment}_*.log")]


def test_one_trace_joins_gateway_and_engine_and_no_other_request_is_traced(told: Told) -> None:
    spans = told.receiver.spans
    gateway = told.receiver.named(f"chat {MODEL}")
    engine = told.receiver.named(f"text_completion {MODEL}")
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert (gateway.parent_id, engine.parent_id) == (CLIENT_SPAN, gateway.span_id)
    assert {span.service for span in spans} == {"coterie-gateway", "coterie-engine"}
    assert told.traceresponse == f"00-{TRACE_ID}-{gateway.span_id}-01"
    usage = told.answer["usage"]
    assert gateway.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert engine.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]


def test_one_scrape_has_the_requests_of_both_gateways(told: Told) -> None:
    samples = [s for f in text_string_to_metric_families(told.page) for s in f.samples]
    ready = [s for s in samples if s.name == "coterie_ready_engine_replicas"]
    assert [s.value for s in ready] == [1, 1]
    assert len({s.labels["replica"] for s in ready}) == 2
    assert sum(s.value for s in samples if s.name == "coterie_requests_total") == 4


def test_each_request_has_one_usage_record(told: Told) -> None:
    records = [
        decode_record(line)
        for path in told.folder.glob("usage-*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    assert len(records) == 4
    (traced,) = [r for r in records if r.request_id == "traced"]
    assert traced.num_output_tokens == told.answer["usage"]["completion_tokens"]
    assert (traced.model, traced.outcome, traced.door) == (MODEL, "finished", "openai")


def test_the_replicas_logs_are_json_with_one_record_a_request(told: Told) -> None:
    records = [json.loads(line) for line in told.log_lines]
    requests = [r for r in records if r.get("event") == "request"]
    assert len(requests) == 4
    (traced,) = [r for r in requests if r["request_id"] == "traced"]
    assert traced["trace_id"] == TRACE_ID
    assert (traced["tenant"], traced["outcome"]) == ("anonymous", "finished")


def test_the_engines_log_has_what_it_said_after_vllm_was_loaded(told: Told) -> None:
    messages = [json.loads(line)["message"] for line in told.engine_log.splitlines()]
    assert any(message.startswith(f"engine of {MODEL} ready") for message in messages)
