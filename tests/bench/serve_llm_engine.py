"""What makes Ray Serve LLM's engine the same as ours; runs inside its replica.

On CPU Serve LLM gives vLLM the executor `mp`, whatever its configuration says: an
only rank then lives in a second process, for which the engine core waits by
spinning on shared memory. And threads are bound by variables of the process that
starts the engine core; set when that process starts, they would bind its own
threads too. So both are changed in the replica, between the imports and the
engine's start, by the hook that Serve LLM offers for such things. Its replicas share
out the cores of the machine as ours do. The names
below `ray.llm._internal` are not public: they hold for the pinned version of Ray.
"""

import os
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_models import VLLMEngineConfig

from deployments.engine.core_claim import claim_ranks_cores
from deployments.engine.cores import num_ranks_to_share
from deployments.engine.plan import plan_thread_environment
from deployments.engine.scratch import Scratch
from deployments.settings import ModelSection


class PlannedEngineConfig(VLLMEngineConfig):  # type: ignore[misc]  # Ray is read as Any
    """Serve LLM's engine arguments with the executor that is asked for."""

    executor: str

    def get_initialization_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for vLLM's `AsyncEngineArgs`."""
        args: dict[str, Any] = super().get_initialization_kwargs()
        return args | {"distributed_executor_backend": self.executor}


class EngineLikeOurs(CallbackBase):  # type: ignore[misc]  # Ray is read as Any
    """Keyword arguments: `executor`, and the `section` of the model."""

    async def on_after_node_init(self) -> None:
        """Called in the replica, right before the engine is configured."""
        section = ModelSection.model_validate(self.kwargs["section"])
        # The lock's descriptor is never closed: the cores are this process's until it ends.
        scratch = Scratch.claim()
        runs = claim_ranks_cores(scratch, section, num_ranks_to_share([section]))
        os.environ.update(plan_thread_environment(runs))
        found = self.llm_config.get_engine_config().model_dump()
        planned = PlannedEngineConfig(**found, executor=self.kwargs["executor"])
        self.llm_config._engine_config = planned
