"""One model whole, split by tensor and staged in a pipeline; a GGUF file by its path."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import openai
import pytest

from coterie import AsyncClient, Client
from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of, spawned_by
from tests.reference.greedy import greedy_by_vllm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# float32, since in bfloat16 the batch, or the order of the ranks' sum, can turn a near tie.
COMMON = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "kv_cache_memory_bytes": 128 * 1024**2,
}
NUM_TOKENS = 12
PROMPTS = [
    f"{opening} {subject}"
    for opening in ("The history of", "A short poem about", "def", "Once upon a time,", "1, 2,")
    for subject in (
        "bread",
        "the sea and its tides",
        "fibonacci(n):",
        "a clockmaker in Geneva",
        "3, 4,",
        "émigré café culture",
        "snow",
        "x = [i for i in",
        "two friends who",
        "the number of",
    )
]

Ask = Callable[[str], Awaitable[list[int]]]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, small_llama: str
) -> Iterator[RunningCluster]:
    common = COMMON | {"model": small_llama}
    models = [
        {"name": "whole"} | common,
        {"name": "split", "tensor_parallel_size": 2} | common,
        {"name": "staged", "pipeline_parallel_size": 2} | common,
    ]
    with RunningCluster(tmp_path_factory.mktemp("split"), "split", models=models) as running:
        yield running


@pytest.fixture(scope="module")
def expected(small_llama: str) -> list[list[int]]:
    """Greedy tokens of vLLM itself. Shape: [len(PROMPTS), NUM_TOKENS]."""
    return greedy_by_vllm(COMMON | {"model": small_llama}, PROMPTS, NUM_TOKENS)


async def all_at(concurrency: int, ask: Ask) -> list[list[int]]:
    """Answers for all prompts, with so many under way at a time."""
    room = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> list[int]:
        async with room:
            return await ask(prompt)

    return list(await asyncio.gather(*(one(prompt) for prompt in PROMPTS)))


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("model", ["whole", "split", "staged"])
async def test_greedy_tokens_through_grpc_are_those_of_vllm(
    expected: list[list[int]], cluster: RunningCluster, model: str, concurrency: int
) -> None:
    async with AsyncClient(cluster.address) as client:

        async def ask(prompt: str) -> list[int]:
            chunks = client.generate(
                prompt, model=model, temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True
            )
            return [token async for chunk in chunks for token in chunk.token_ids]

        assert await all_at(concurrency, ask) == expected


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_greedy_tokens_through_openai_http_are_those_of_vllm(
    expected: list[list[int]], cluster: RunningCluster, concurrency: int
) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{cluster.http_url}/v1", api_key="none", max_retries=0
    ) as client:

        async def ask(prompt: str) -> list[int]:
            stream = await client.completions.create(
                model="whole",
                prompt=prompt,
                temperature=0,
                max_tokens=NUM_TOKENS,
                stream=True,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
            tokens: list[int] = []
            async for chunk in stream:
                for choice in chunk.choices:
                    tokens += (choice.model_extra or {}).get("token_ids") or []
            return tokens

        assert await all_at(concurrency, ask) == expected


def test_an_answer_says_of_which_model_it_is(cluster: RunningCluster) -> None:
    with Client(cluster.address) as client:
        for model in ("whole", "split", "staged"):
            answer = client.generate_unary("Roses are red,", model=model, max_tokens=2)
            assert answer.model == model


def test_each_rank_is_a_process_of_its_own_bound_to_its_own_core(
    cluster: RunningCluster,
) -> None:
    states = cluster.status()
    ranks = {
        model: spawned_by(engine_core_of(states[f"engine-{model}"]["details"][0]["pid"]))
        for model in ("whole", "split", "staged")
    }
    assert ranks["whole"] == [], "its only rank lives in its engine core"
    for model in ("split", "staged"):
        first, second = (set(rank.cpu_affinity()) for rank in ranks[model])
        assert first.isdisjoint(second)
    with Client(cluster.address) as client:
        assert {model.name for model in client.models()} == {
            "whole",
            "split",
            "staged",
        }


def test_a_model_must_be_named_where_there_are_several(cluster: RunningCluster) -> None:
    with (
        Client(cluster.address) as client,
        pytest.raises(Exception, match="split, staged, whole"),
    ):
        client.generate_unary("hello")
