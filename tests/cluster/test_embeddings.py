"""Embeddings through a whole cluster, against the model as transformers computes it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from openai import AsyncOpenAI, BadRequestError, OpenAI
from transformers import AutoModel, AutoTokenizer

from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR, RunningCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
COMMON = {
    "model": MODEL,
    "task": "embed",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 128 * 1024**2,
}
TEXTS = (
    "Roses are red",
    "Water boils at a hundred degrees.",
    "def add(a, b):",
    "The history of bread is long, and " * 40,
)

Pool = Callable[[torch.Tensor], torch.Tensor]
POOLS: dict[str, Pool] = {
    "last": lambda states: states[-1],
    "mean": lambda states: states.mean(dim=0),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    mean = {"engine_args": {"pooler_config": {"pooling_type": "MEAN"}}}
    models = [{"name": "last"} | COMMON, {"name": "mean"} | COMMON | mean]
    folder = tmp_path_factory.mktemp("embeddings")
    with RunningCluster(folder, "embeddings", models=models) as running:
        yield running


@pytest.fixture
def client(cluster: RunningCluster) -> OpenAI:
    return OpenAI(base_url=f"{cluster.http_url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("name", POOLS)
def test_embeddings_are_those_that_transformers_computes(client: OpenAI, name: str) -> None:
    path = resolve_model(MODEL, STATE_DIR).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, dtype=torch.float32)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    of_texts = client.embeddings.create(model=name, input=list(TEXTS))
    of_ids = client.embeddings.create(model=name, input=ids, encoding_format="float")
    assert of_texts.usage.total_tokens == of_ids.usage.total_tokens == sum(map(len, ids))
    for prompt, *given in zip(ids, of_texts.data, of_ids.data, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([prompt])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(POOLS[name](states), dim=0)
        for each in given:
            torch.testing.assert_close(
                torch.tensor(each.embedding), expected, atol=1e-5, rtol=1e-4
            )


def test_a_batch_is_answered_and_gone_on_with(cluster: RunningCluster, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "last", "input": f"The number {number}"},
        }
        for number in range(60)
    ]
    source.write_text("\n".join(map(json.dumps, requests)))
    command = ("batch", str(source), str(target), "--url", f"{cluster.http_url}/v1", "--json")
    assert json.loads(cluster.coterie(*command))["num_ok"] == 60
    written = target.read_bytes()
    kept = b"".join(written.splitlines(keepends=True)[:20])
    target.write_bytes(kept + b'{"id": "batch_req_')
    again = json.loads(cluster.coterie(*command))
    assert (again["num_before"], again["num_ok"], again["num_failed"]) == (20, 60, 0)
    answers = [json.loads(line) for line in target.read_bytes().splitlines()]
    assert {answer["custom_id"] for answer in answers} == {r["custom_id"] for r in requests}
    assert len(answers) == 60
    vectors = [answer["response"]["body"]["data"][0]["embedding"] for answer in answers]
    assert {len(vector) for vector in vectors} == {576}


def test_what_the_model_cannot_do_is_refused(client: OpenAI) -> None:
    refusals: dict[str, Callable[[], object]] = {
        "unknown_method": lambda: client.completions.create(model="last", prompt="a"),
        "invalid_argument": lambda: client.embeddings.create(
            model="last", input="a", dimensions=64
        ),
        "context_length_exceeded": lambda: client.embeddings.create(
            model="last", input="a " * 513
        ),
    }
    for code, ask in refusals.items():
        with pytest.raises(BadRequestError) as caught:
            ask()
        assert caught.value.code == code


async def test_a_client_that_leaves_many_inputs_leaves_nothing_behind(
    cluster: RunningCluster,
) -> None:
    async with AsyncOpenAI(base_url=f"{cluster.http_url}/v1", api_key="none") as client:
        texts = [f"{number} " * 80 for number in range(200)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.embeddings.create(model="last", input=texts)
    status = {}
    for _ in range(20):
        found = await asyncio.to_thread(cluster.status)
        (detail,) = found["engine-last"]["details"]
        status = {key: detail[key] for key in ("num_open_calls", "num_used_kv_blocks")}
        if not any(status.values()):
            break
        await asyncio.sleep(0.5)
    assert status == {"num_open_calls": 0, "num_used_kv_blocks": 0}
