"""A CPU rank of a pipeline's later stages that is ready for its first step.

vLLM allocates the buffer for a stage's input in a profiling run. Its CPU
backend leaves that run out where nothing is compiled, and the first step then
ends the engine core with an AssertionError.
"""

from typing import Any

from vllm.distributed import get_pp_group
from vllm.v1.worker.cpu_worker import CPUWorker


class StageWorker(CPUWorker):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's CPU worker, which makes the buffer where the warm-up has not."""

    def compile_or_warm_up_model(self) -> Any:
        """As vLLM's; the model is loaded by then."""
        times = super().compile_or_warm_up_model()
        runner = self.model_runner
        if not get_pp_group().is_first_rank and runner.intermediate_tensors is None:
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens,
                dtype=runner.model_config.dtype,
                device=runner.device,
            )
        return times
