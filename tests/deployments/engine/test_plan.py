"""What Ray and vLLM are asked for, by configuration."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.engine.plan import (
    CORE_EXECUTOR,
    STAGE_WORKER,
    TRACED_WORKER,
    plan_engine_args,
    plan_kv_events,
    plan_placement,
    plan_thread_environment,
)
from deployments.settings import ModelSection


def section(**changes: object) -> ModelSection:
    return ModelSection.model_validate({"name": "m", "model": "some/model"} | changes)


def test_tensor_parallel_ranks_share_one_bundle_and_so_one_node() -> None:
    placement = plan_placement(section(tensor_parallel_size=4), "cuda")
    assert placement.bundles == ({"CPU": 4.0, "GPU": 4.0},)
    assert (placement.executor, placement.actor_num_gpus) == ("mp", 4.0)


def test_pipeline_stages_get_one_bundle_a_rank_beside_the_replicas_own() -> None:
    placement = plan_placement(
        section(tensor_parallel_size=2, pipeline_parallel_size=2), "cuda"
    )
    assert placement.bundles == ({"CPU": 1.0}, *[{"CPU": 1.0, "GPU": 1.0}] * 4)
    assert (placement.executor, placement.strategy) == ("ray", "PACK")
    assert placement.actor_num_gpus == 0.0


def test_on_cpu_nothing_is_claimed_unless_asked_for() -> None:
    assert plan_placement(section(), "cpu").bundles == ({"CPU": 0.0},)
    asked = plan_placement(section(tensor_parallel_size=2, num_cpus_per_rank=1.5), "cpu")
    assert (asked.actor_num_cpus, asked.actor_num_gpus) == (3.0, 0.0)


def test_threads_are_bound_by_openmp_for_one_rank_and_by_vllm_for_several() -> None:
    assert plan_placement(section(), "cpu").executor == CORE_EXECUTOR
    assert plan_thread_environment([[1, 2]]) == {
        "OMP_NUM_THREADS": "2",
        "GOMP_CPU_AFFINITY": "1 2",
    }
    two = section(tensor_parallel_size=2)
    assert plan_placement(two, "cpu").executor == "mp"
    assert plan_thread_environment([[0], [1]]) == {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}


def test_every_other_engine_argument_passes_through() -> None:
    args = plan_engine_args(
        section(engine_args={"block_size": 64, "seed": 7}), "cpu", "/models/m", "mp"
    )
    assert (args["block_size"], args["seed"], args["model"]) == (64, 7, "/models/m")
    assert args["kv_cache_memory_bytes"] == 1024**3
    assert "max_model_len" not in args


def test_an_engine_argument_that_has_a_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="set dtype of the model instead"):
        section(engine_args={"dtype": "half"})


def test_adapters_switch_lora_on() -> None:
    args = plan_engine_args(section(adapters={"a": "/a", "b": "/b"}), "cpu", "/m", "mp")
    assert (args["enable_lora"], args["max_loras"]) == (True, 2)


def test_later_stages_of_a_cpu_pipeline_make_their_own_buffers() -> None:
    staged = section(pipeline_parallel_size=2)
    assert plan_engine_args(staged, "cpu", "p", "mp")["worker_cls"] == STAGE_WORKER
    assert "worker_cls" not in plan_engine_args(staged, "cuda", "p", "ray")
    assert "worker_cls" not in plan_engine_args(section(), "cpu", "p", "mp")


def test_the_ranks_of_a_traced_engine_trace_unless_the_user_has_others() -> None:
    traced = plan_engine_args(section(), "cuda", "p", "mp", is_traced=True)
    assert traced["worker_cls"] == TRACED_WORKER
    own = section(engine_args={"worker_cls": "mine.Worker"})
    assert (
        plan_engine_args(own, "cpu", "p", "mp", is_traced=True)["worker_cls"] == "mine.Worker"
    )


def test_an_embedding_model_gets_vllms_pooling_runner() -> None:
    args = plan_engine_args(section(task="embed"), "cpu", "/models/m", "mp")
    assert (args["runner"], args["convert"]) == ("pooling", "embed")
    assert not {"enable_prefix_caching", "enable_chunked_prefill"} & args.keys()
    given = section(task="embed", enable_prefix_caching=False)
    assert plan_engine_args(given, "cpu", "/models/m", "mp")["enable_prefix_caching"] is False
    assert "runner" not in plan_engine_args(section(), "cpu", "/models/m", "mp")


def test_what_an_engine_caches_is_told_at_its_own_folders_sockets_alone() -> None:
    config = plan_kv_events(section(), Path("/scratch"))["kv_events_config"]
    assert config["enable_kv_cache_events"] is True
    endpoints = (config["endpoint"], config["replay_endpoint"])
    assert all(e.startswith("ipc:///scratch/") and "inproc" in e for e in endpoints)


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "embed"},
        {"enable_prefix_caching": False},
        {"engine_args": {"kv_events_config": {"publisher": "null"}}},
        {"engine_args": {"data_parallel_backend": "ray"}},
    ],
)
def test_nothing_is_told_where_nothing_is_cached_or_others_listen(
    changed: dict[str, Any],
) -> None:
    assert plan_kv_events(section(**changed), Path("/scratch")) == {}
