"""One model whole, split by tensor and staged in a pipeline; a GGUF file by its path."""

from collections.abc import Iterator

import pytest

from coterie import Client
from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of, spawned_by
from tests.builders.gemma import gemma_gguf

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# float32, since in bfloat16 the order of the ranks' sum can turn a near tie.
COMMON = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 128 * 1024**2,
}
PROMPTS = ("The capital of France is", "Water boils at", "def add(a, b):", "Roses are red,")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    folder = tmp_path_factory.mktemp("split")
    path = str(gemma_gguf(folder))
    models = [
        {"name": "whole", "model": path} | COMMON,
        {"name": "split", "model": path, "tensor_parallel_size": 2} | COMMON,
        {"name": "staged", "model": path, "pipeline_parallel_size": 2} | COMMON,
    ]
    with RunningCluster(folder, "split", models=models) as running:
        yield running


def test_however_a_model_is_split_it_gives_the_same_greedy_text(
    cluster: RunningCluster,
) -> None:
    def tokens(client: Client, model: str) -> list[tuple[int, ...]]:
        answers = [
            client.generate_unary(
                prompt, model=model, temperature=0, max_tokens=12, ignore_eos=True
            )
            for prompt in PROMPTS
        ]
        assert {answer.model for answer in answers} == {model}
        return [tuple(answer.outputs[0].token_ids) for answer in answers]

    with Client(cluster.address) as client:
        whole = tokens(client, "whole")
        assert tokens(client, "split") == whole
        assert tokens(client, "staged") == whole


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
