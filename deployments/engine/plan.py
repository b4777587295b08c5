"""From a model's section to what Ray and vLLM are asked for: pure functions.

Ranks of one engine replica, with where they run:

| device | pipeline stages | executor | bundles                              |
|--------|-----------------|----------|--------------------------------------|
| CPU    | any             | mp       | one: the whole replica on one node   |
| GPU    | 1               | mp       | one: all tensor-parallel ranks       |
| GPU    | more            | ray      | the replica's own, then one a rank   |

A single bundle cannot be split, so tensor-parallel ranks share a node's fast
links. With several stages the bundles are packed node by node in rank order:
where a node holds exactly `tensor_parallel_size` GPUs, each stage gets a node
of its own and only activations cross the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments.settings import ModelSection
from infra.errors import ConfigError

Device = Literal["cpu", "cuda"]
CPU_KV_CACHE_BYTES = 1024**3

# Engine arguments that a section's own fields set; giving them a second time
# in `engine_args` would leave it open which one counts.
_OWN_ENGINE_ARGS = {
    "model": "model",
    "served_model_name": "name",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "dtype": "dtype",
    "quantization": "quantization",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enable_prefix_caching": "enable_prefix_caching",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "enforce_eager": "enforce_eager",
    "enable_lora": "adapters",
    "distributed_executor_backend": "tensor_parallel_size and pipeline_parallel_size",
}


@dataclass(frozen=True)
class Placement:
    """What one engine replica claims from the Ray cluster.

    `bundles[0]` is the replica's own; `actor_num_cpus` and `actor_num_gpus`
    are its share of it.
    """

    executor: Literal["mp", "ray"]
    strategy: Literal["PACK", "STRICT_PACK"]
    bundles: tuple[Mapping[str, float], ...]
    actor_num_cpus: float
    actor_num_gpus: float


def plan_placement(section: ModelSection, device: Device) -> Placement:
    """Bundles and executor of one engine replica; see the module's table."""
    per_rank = section.num_cpus_per_rank
    if device == "cpu":
        num_cpus = (per_rank or 0.0) * section.num_ranks
        return Placement("mp", "STRICT_PACK", ({"CPU": num_cpus},), num_cpus, 0.0)
    per_rank = 1.0 if per_rank is None else per_rank
    if section.pipeline_parallel_size == 1:
        num_gpus = float(section.tensor_parallel_size)
        num_cpus = per_rank * section.num_ranks
        bundle = {"CPU": num_cpus, "GPU": num_gpus}
        return Placement("mp", "STRICT_PACK", (bundle,), num_cpus, num_gpus)
    ranks = ({"CPU": per_rank, "GPU": 1.0},) * section.num_ranks
    return Placement("ray", "PACK", ({"CPU": 1.0}, *ranks), 1.0, 0.0)


def plan_engine_args(
    section: ModelSection, device: Device, model_path: str, executor: str
) -> dict[str, Any]:
    """Keyword arguments for vLLM's `AsyncEngineArgs`.

    Raises ConfigError where `engine_args` repeats a field of the section.
    """
    for key in section.engine_args:
        if key in _OWN_ENGINE_ARGS:
            raise ConfigError(
                f"models.{section.name}.engine_args.{key}: "
                f"set {_OWN_ENGINE_ARGS[key]} of the model instead"
            )
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
    if section.adapters:
        args |= {"enable_lora": True, "max_loras": len(section.adapters)}
    if device == "cpu" and args["kv_cache_memory_bytes"] is None:
        args["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
    return {k: v for k, v in args.items() if v is not None} | section.engine_args


def plan_core_binding(section: ModelSection, cores: Sequence[int]) -> str:
    """Value of VLLM_CPU_OMP_THREADS_BIND: rank by rank, such as "0,1|2,3".

    One rank is left to vLLM, which keeps a core free for its scheduler.
    Several ranks get equal runs of the cores that this process may use, since
    vLLM by itself wants a NUMA node for each. Raises ConfigError where there
    are fewer cores than ranks.
    """
    if section.cpu_cores_per_rank is not None:
        return "|".join(",".join(map(str, rank)) for rank in section.cpu_cores_per_rank)
    num_ranks = section.num_ranks
    if num_ranks == 1:
        return "auto"
    if len(cores) < num_ranks:
        raise ConfigError(
            f"models.{section.name}: {num_ranks} ranks need as many cores, "
            f"this node offers {len(cores)}; lower tensor_parallel_size"
        )
    share = len(cores) // num_ranks
    ordered = sorted(cores)
    runs = [ordered[rank * share : (rank + 1) * share] for rank in range(num_ranks)]
    return "|".join(",".join(map(str, run)) for run in runs)
