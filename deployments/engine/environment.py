"""Environment variables that an engine's processes must start with."""

import math
import os
from collections.abc import Mapping
from pathlib import Path


def engine_environment(state_dir: Path, startup_timeout_s: float = 600.0) -> Mapping[str, str]:
    """Variables for the replica's process, set before anything is imported.

    Compile caches go to the state directory, so that a second start finds
    them; nothing is reported to anyone, and nothing that opens an engine to others is on,
    whatever this process was started with. An engine core that is not ready after
    `startup_timeout_s` is given up.
    """
    cache = state_dir / "engine"
    return {
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(startup_timeout_s)),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
    }


def join_ray_cluster(gcs_address: str) -> None:
    """Make engine processes join this Ray cluster, should they need one.

    Without it an executor that needs Ray starts a second, private cluster.
    """
    os.environ["RAY_ADDRESS"] = gcs_address
