"""From a model's section to what Ray and vLLM are asked for: pure functions.

Ranks of one engine replica, with where they run:

| device | pipeline stages | executor | bundles                              |
|--------|-----------------|----------|--------------------------------------|
| CPU    | any, one rank   | core     | one: the whole replica on one node   |
| CPU    | any             | mp       | the same                             |
| GPU    | 1               | mp       | one: all tensor-parallel ranks       |
| GPU    | more            | ray      | the replica's own, then one a rank   |

A single bundle cannot be split, so tensor-parallel ranks share a node's fast
links. With several stages the bundles are packed node by node in rank order:
where a node holds exactly `tensor_parallel_size` GPUs, each stage gets a node
of its own and only activations cross the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from deployments.engine.kv_events.types import MAX_QUEUED_BATCHES
from deployments.settings import ModelSection

Device = Literal["cpu", "cuda"]
CPU_KV_CACHE_BYTES = 1024**3
STAGE_WORKER = "deployments.engine.stage_worker.StageWorker"
TRACED_WORKER = "deployments.engine.traced_worker.TracedWorker"
CORE_EXECUTOR = "deployments.engine.core_executor.CoreExecutor"
KV_EVENT_BATCHES_KEPT = 4096
_EMBEDDING_ARGS = {"runner": "pooling", "convert": "embed"}


class Machine(TypedDict):
    """What an engine replica is told of where it runs."""

    device: Device
    executor: str
    """See `Placement`."""
    num_cpu_ranks: int
    """CPU ranks of the whole application, which share the cores of its nodes."""


@dataclass(frozen=True)
class Placement:
    """What one engine replica claims from the Ray cluster.

    `bundles[0]` is the replica's own; `actor_num_cpus` and `actor_num_gpus`
    are its share of it.
    """

    executor: str  # "mp", "ray" or CORE_EXECUTOR
    strategy: Literal["PACK", "STRICT_PACK"]
    bundles: tuple[dict[str, float], ...]
    actor_num_cpus: float
    actor_num_gpus: float


def plan_placement(section: ModelSection, device: Device) -> Placement:
    """Bundles and executor of one engine replica; see the module's table."""
    per_rank = section.num_cpus_per_rank
    if device == "cpu":
        num_cpus = (per_rank or 0.0) * section.num_ranks
        executor = CORE_EXECUTOR if section.num_ranks == 1 else "mp"
        return Placement(executor, "STRICT_PACK", ({"CPU": num_cpus},), num_cpus, 0.0)
    per_rank = 1.0 if per_rank is None else per_rank
    if section.pipeline_parallel_size == 1:
        num_gpus = float(section.tensor_parallel_size)
        num_cpus = per_rank * section.num_ranks
        bundle = {"CPU": num_cpus, "GPU": num_gpus}
        return Placement("mp", "STRICT_PACK", (bundle,), num_cpus, num_gpus)
    ranks = ({"CPU": per_rank, "GPU": 1.0},) * section.num_ranks
    return Placement("ray", "PACK", ({"CPU": 1.0}, *ranks), 1.0, 0.0)


def plan_engine_args(
    section: ModelSection,
    device: Device,
    model_path: str,
    executor: str,
    *,
    is_traced: bool = False,
) -> dict[str, Any]:
    """Keyword arguments for vLLM's `AsyncEngineArgs`."""
    args: dict[str, Any] = {
        "model": model_path,
        "served_model_name": section.name,
        "tensor_parallel_size": section.tensor_parallel_size,
        "pipeline_parallel_size": section.pipeline_parallel_size,
        "dtype": section.dtype,
        "quantization": section.quantization,
        "max_model_len": section.max_model_len,
        "max_num_seqs": section.max_num_seqs,
        "kv_cache_memory_bytes": section.kv_cache_memory_bytes,
        "gpu_memory_utilization": section.gpu_memory_utilization,
        "enable_prefix_caching": section.enable_prefix_caching,
        "enable_chunked_prefill": section.enable_chunked_prefill,
        "enforce_eager": section.enforce_eager,
        "distributed_executor_backend": executor,
        "disable_log_stats": True,
    }
    if section.task == "embed":
        args |= _EMBEDDING_ARGS
        # Not all embedding models bear these: by default vLLM decides.
        for name in ("enable_prefix_caching", "enable_chunked_prefill"):
            args[name] = None if args[name] else False
    if section.adapters:
        args |= {"enable_lora": True, "max_loras": len(section.adapters)}
    if device == "cpu":
        args["kv_cache_memory_bytes"] = section.kv_cache_memory_bytes or CPU_KV_CACHE_BYTES
        if section.pipeline_parallel_size > 1:
            args["worker_cls"] = STAGE_WORKER
    if is_traced:
        # On CPUs it is a `StageWorker` too.
        args["worker_cls"] = TRACED_WORKER
    return {k: v for k, v in args.items() if v is not None} | section.engine_args


def with_arguments(args: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both; `additional_config`, which vLLM leaves to others, has what either says."""
    joined = args | more
    parts = [a["additional_config"] for a in (args, more) if "additional_config" in a]
    if parts:
        joined["additional_config"] = {key: part[key] for part in parts for key in part}
    return joined


def plan_kv_events(section: ModelSection, folder: Path) -> dict[str, Any]:
    """What makes vLLM tell, at sockets in the folder, which prefixes it has cached.

    Empty where it caches none, where `engine_args` say who else is told, and where the
    engine cores may be on other nodes. Other ranks than the first have sockets of their
    own, whose names vLLM makes of these, but only if there is `inproc` in them.
    """
    args = section.engine_args
    if (
        section.task != "generate"
        or not section.enable_prefix_caching
        or "kv_events_config" in args
        or args.get("data_parallel_backend") == "ray"
    ):
        return {}
    return {
        "kv_events_config": {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"ipc://{folder}/inproc-kv-events",
            "replay_endpoint": f"ipc://{folder}/inproc-kv-replay",
            "buffer_steps": KV_EVENT_BATCHES_KEPT,
            "hwm": MAX_QUEUED_BATCHES,
        }
    }


def plan_thread_environment(runs: Sequence[Sequence[int]]) -> Mapping[str, str]:
    """Variables that bind each rank's threads to its cores. Shape: as of `plan_cores`.

    An only rank lives in the engine core's process, which OpenMP's own
    variables bind. For several, vLLM takes the cores rank by rank ("0,1|2,3").
    """
    if len(runs) == 1:
        return {
            "OMP_NUM_THREADS": str(len(runs[0])),
            "GOMP_CPU_AFFINITY": " ".join(map(str, runs[0])),
        }
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, run)) for run in runs)}
