"""The main path on real parts: one small model, both doors, all the way to vLLM."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import openai
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coterie import (
    Client,
    DeadlineError,
    EngineError,
    InvalidArgumentError,
    NoReplicaError,
    PromptTooLongError,
    Response,
    UnknownModelError,
    Usage,
)
from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of
from tests.builders.reflection_client import called_by_reflection, listed_services
from tests.cluster.adapter import write_random_adapter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
# float32, since in bfloat16 two tokens can tie and the batch decides.
SECTION = {
    "name": MODEL,
    "model": MODEL,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 256 * 1024**2,
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_adapter(tmp_path_factory.mktemp("adapter"), MODEL)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, adapter: Path
) -> Iterator[RunningCluster]:
    model = SECTION | {"adapters": {"noisy": str(adapter)}, "engine_args": {"max_lora_rank": 8}}
    folder = tmp_path_factory.mktemp("serving")
    gateway = {"reflection": True}
    with RunningCluster(folder, "serving", models=[model], gateway=gateway) as running:
        yield running


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[Client]:
    with Client(cluster.address) as connected:
        yield connected


def usage_of(answer: Response) -> Usage:
    """Token counts, which a whole answer always has."""
    assert answer.usage is not None
    return answer.usage


def test_a_chat_gives_the_same_text_streamed_and_whole_and_through_both_doors(
    cluster: RunningCluster, client: Client
) -> None:
    question = "Name three colours of the rainbow."
    whole = client.chat_unary(question, temperature=0, max_tokens=24)
    streamed = "".join(c.text for c in client.chat(question, temperature=0, max_tokens=24))
    with openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key="none") as http:
        answer = http.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=24,
        )
    assert len(whole.text) > 10
    assert whole.text == streamed == answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == usage_of(whole).num_prompt_tokens


def test_usage_counts_the_prompt_tokens_that_came_from_the_prefix_cache(
    client: Client,
) -> None:
    prompt = [300 + i for i in range(300)]
    first = client.generate_unary(prompt, temperature=0, max_tokens=4)
    second = client.generate_unary(prompt, temperature=0, max_tokens=4)
    assert (usage_of(first).num_prompt_tokens, usage_of(first).num_cached_tokens) == (300, 0)
    # Whole blocks of 128 tokens are reused.
    assert usage_of(second).num_cached_tokens == 256
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_sampling_parameters_reach_the_engine(client: Client) -> None:
    def text(**sampling: Any) -> str:
        return client.generate_unary("Numbers:", max_tokens=16, **sampling).text

    assert text(seed=1, temperature=1.0) == text(seed=1, temperature=1.0)
    assert text(temperature=0, stop=[","]).find(",") == -1
    assert text(temperature=0, logit_bias={260: 100.0}).count(" the") >= 8
    several = client.generate_unary("Once", n=3, temperature=1.0, max_tokens=4, logprobs=2)
    assert [output.index for output in several.outputs] == [0, 1, 2]
    assert usage_of(several).num_output_tokens == 12
    logprobs = several.outputs[0].logprobs
    assert logprobs is not None
    assert [len(position.top) for position in logprobs] == [2] * 4


@pytest.mark.parametrize(
    ("form", "is_right"),
    [
        ({"regex": "[0-9]{4}"}, lambda text: len(text) == 4 and text.isdigit()),
        ({"choice": ["yes", "no"]}, lambda text: text in {"yes", "no"}),
        (
            {
                "json_schema": json.dumps(
                    {
                        "type": "object",
                        "properties": {"age": {"type": "integer", "maximum": 99}},
                        "required": ["age"],
                        "additionalProperties": False,
                    }
                )
            },
            lambda text: isinstance(json.loads(text)["age"], int),
        ),
        ({"grammar": 'root ::= "a" | "bc"'}, lambda text: text in {"a", "bc"}),
    ],
)
def test_structured_output_obeys_its_form(
    client: Client, form: dict[str, Any], is_right: Any
) -> None:
    answer = client.generate_unary("Answer: ", temperature=0, max_tokens=24, **form)
    assert is_right(answer.text)


def test_a_model_whose_template_knows_no_tools_calls_one_on_demand_alone(
    cluster: RunningCluster,
) -> None:
    size = {
        "type": "object",
        "properties": {"size": {"enum": ["S", "M"]}},
        "required": ["size"],
    }
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "I take a small one."}],
        "tools": [{"type": "function", "function": {"name": "order", "parameters": size}}],
        "temperature": 0,
        "max_tokens": 40,
    }
    demand: Any = {"type": "function", "function": {"name": "order"}}
    with openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key="none") as http:
        answer = http.chat.completions.create(**asked, tool_choice=demand)
        with pytest.raises(openai.BadRequestError, match="chat template has no tools"):
            http.chat.completions.create(**asked)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "order"
    assert json.loads(call.function.arguments)["size"] in {"S", "M"}


def test_an_adapter_is_chosen_by_its_name_and_changes_the_answer(client: Client) -> None:
    base = client.generate_unary("The history of bread", temperature=0, max_tokens=8)
    noisy = client.generate_unary(
        "The history of bread", model="noisy", temperature=0, max_tokens=8
    )
    assert noisy.model == "noisy"
    assert noisy.outputs[0].token_ids != base.outputs[0].token_ids
    assert client.model("noisy").base_model == MODEL


def test_tokenize_and_detokenize_are_inverse_and_agree_with_usage(client: Client) -> None:
    text = "Grüße, world! 123"
    tokens = client.tokenize(text)
    assert client.detokenize(tokens.token_ids) == text
    answer = client.generate_unary(text, max_tokens=1)
    assert usage_of(answer).num_prompt_tokens == len(tokens.token_ids)


@pytest.mark.parametrize(
    ("request_", "error", "advice"),
    [
        ({"prompt": "word " * 2000}, PromptTooLongError, "shorten the prompt"),
        ({"prompt": "hi", "max_tokens": 5000}, PromptTooLongError, "set max_tokens to at most"),
        ({"prompt": "hi", "model": "gpt-9"}, UnknownModelError, MODEL),
        ({"prompt": "hi", "top_p": 1.5}, InvalidArgumentError, "top_p"),
        ({"prompt": [10**6]}, InvalidArgumentError, "vocabulary"),
        ({"prompt": "hi", "json_schema": "{{"}, InvalidArgumentError, "JSON"),
    ],
)
def test_each_mistake_has_its_own_error_that_says_what_to_change(
    client: Client, request_: dict[str, Any], error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=advice) as refused:
        client.generate_unary(**request_)
    assert type(refused.value) is error


def used_blocks(cluster: RunningCluster) -> tuple[int, int]:
    """Calls under way and KV blocks held, as the engine counts them."""
    (detail,) = cluster.status()[f"engine-{MODEL}"]["details"]
    return detail["num_open_calls"], detail["num_used_kv_blocks"]


def after_one_more_step(cluster: RunningCluster, client: Client) -> tuple[int, int]:
    """The same after a request of one token: an idle engine makes no new count."""
    client.generate_unary([7], max_tokens=2, ignore_eos=True)
    return used_blocks(cluster)


@pytest.mark.parametrize("how", ["leave", "deadline", "cancel", "http"])
def test_when_a_client_goes_its_blocks_are_free_again(
    cluster: RunningCluster, client: Client, how: str
) -> None:
    prompt = [400 + ord(how[0]) + i for i in range(400)]  # 4 blocks of 128 tokens
    endless = {"max_tokens": 600, "ignore_eos": True, "temperature": 0.0}
    if how == "http":
        body = {"model": MODEL, "prompt": prompt, "stream": True} | endless
        with httpx2.stream("POST", f"{cluster.http_url}/v1/completions", json=body) as stream:
            # Held, since a line iterator that is dropped ends the connection.
            lines = stream.iter_lines()
            assert next(lines).startswith("data:")
            assert used_blocks(cluster)[1] >= 4
    elif how == "deadline":
        with pytest.raises(DeadlineError):
            list(client.generate(prompt, timeout_s=1.0, **endless))  # type: ignore[arg-type]
    else:
        stream_ = client.generate(prompt, **endless)  # type: ignore[arg-type]
        next(stream_)
        num_calls, num_blocks = used_blocks(cluster)
        assert (num_calls, num_blocks >= 4) == (1, True)
        stream_.cancel() if how == "cancel" else stream_.__exit__(None, None, None)
    deadline = time.monotonic() + 10
    while used_blocks(cluster)[0] and time.monotonic() < deadline:
        time.sleep(0.1)
    num_calls, num_blocks = after_one_more_step(cluster, client)
    assert num_calls == 0
    assert num_blocks <= 1  # that of the request that made the engine count


def test_the_command_line_speaks_to_the_cluster(cluster: RunningCluster) -> None:
    (first, *_) = cluster.coterie("models", "--json").splitlines()
    assert json.loads(first)["max_model_len"] == 1024
    text = cluster.coterie(
        "generate", "The capital of France is", "--max-tokens", "8", "--temperature", "0"
    )
    assert "Paris" in text
    states = json.loads(cluster.coterie("status", "-f", str(cluster.file), "--json"))
    assert {state["name"]: state["num_running"] for state in states} == {
        "gateway": 1,
        f"engine-{MODEL}": 1,
    }
    top = ("top", "-f", str(cluster.file), "--every", "0.5", "--once", "--json")
    (model,) = json.loads(cluster.coterie(*top))["models"]
    (engine,) = model["engines"]
    assert (model["name"], model["num_held"], engine["num_open"]) == (MODEL, 0, 0)
    assert engine["tpot_s"] > 0


def test_a_triton_client_gets_the_text_that_ours_gets(
    cluster: RunningCluster, client: Client
) -> None:
    prompt = "The capital of France is"
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.triton_client", cluster.address, MODEL, prompt],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = client.generate_unary(prompt, temperature=0, max_tokens=12, ignore_eos=True)
    assert json.loads(done.stdout) == {"whole": answer.text, "streamed": answer.text}


@pytest.mark.parametrize("door", ["grpc", "http", "kserve"])
def test_the_bench_command_measures_the_cluster(cluster: RunningCluster, door: str) -> None:
    api = {
        "grpc": [],
        "http": ["--url", f"{cluster.http_url}/v1", "--model", MODEL],
        "kserve": ["--api", "kserve", "--model", MODEL],
    }
    load = ("--requests", "6", "--concurrency", "3", "--prompt-tokens", "16")
    told = cluster.coterie("bench", *api[door], *load, "--output-tokens", "8", "--json")
    found = json.loads(told)
    assert (found["num_requests"], found["num_failed"]) == (6, 0)
    assert found["num_output_tokens"] == 48


def test_a_reflection_client_calls_the_model_without_stubs(
    cluster: RunningCluster, client: Client
) -> None:
    assert "inference.GRPCInferenceService" in listed_services(cluster.address)
    fields = {
        "text": "The capital of France is",
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    chunks = called_by_reflection(cluster.address, "coterie.v1.Inference", "Generate", **fields)
    whole = client.generate_unary("The capital of France is", temperature=0, max_tokens=8)
    assert "".join(chunk.text for chunk in chunks) == whole.text


def health_of(stub: Any, service: str) -> int:
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def test_health_tells_of_the_gateway_its_services_and_its_models(
    cluster: RunningCluster,
) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "coterie.v1.Inference", f"coterie.v1.Inference/{MODEL}"):
            assert health_of(stub, name) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="no such service or model"):
            health_of(stub, "coterie.v1.Inference/none")


# The last test: it takes the engine down and waits for another.
@pytest.mark.slow
def test_when_the_engine_core_dies_its_requests_fail_and_another_replica_serves(
    cluster: RunningCluster, client: Client
) -> None:
    channel = grpc.insecure_channel(cluster.address)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    stream = client.generate([5] * 20, max_tokens=900, ignore_eos=True, temperature=0)
    next(stream)
    (replica,) = cluster.status()[f"engine-{MODEL}"]["details"]
    core = engine_core_of(replica["pid"])
    core.send_signal(signal.SIGKILL)
    with pytest.raises((EngineError, NoReplicaError), match="try again"):
        list(stream)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            answer = client.generate_unary("The capital of France is", max_tokens=4)
            break
        except (EngineError, NoReplicaError):
            time.sleep(1)
    assert usage_of(answer).num_output_tokens >= 1
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    channel.close()
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
