"""A rank that traces steps; see `StepSpans`.

vLLM asks a worker for a step in one call or two: `execute_model`, and `sample_tokens` where
that has returned nothing. Drafts are proposed in the second.
"""

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput

from deployments.engine.step_tracing import noted_trace, step_spans

# Each platform has a worker of its own, and only that one can be imported everywhere.
if current_platform.is_cpu():
    from deployments.engine.stage_worker import StageWorker as PlainWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlainWorker  # type: ignore[no-redef]


class TracedWorker(PlainWorker):
    """vLLM's worker of this platform, with spans around its steps."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._steps = step_spans(self.rank)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """See vLLM's."""
        if self._steps is None:
            return super().execute_model(scheduler_output)
        self._steps.forget(scheduler_output.finished_req_ids)
        for request in scheduler_output.scheduled_new_reqs:
            if (carrier := noted_trace(request.sampling_params)) is not None:
                self._steps.know(request.req_id, carrier)
        self._steps.begin(scheduler_output.num_scheduled_tokens)
        with self._steps.within():
            output = super().execute_model(scheduler_output)
        if output is not None:
            self._steps.end()
        return output

    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Any:
        """See vLLM's."""
        if self._steps is None:
            return super().sample_tokens(grammar_output)
        with self._steps.within():
            output = super().sample_tokens(grammar_output)
        self._steps.end()
        return output

    def shutdown(self) -> None:
        """See vLLM's."""
        super().shutdown()
        if self._steps is not None:
            self._steps.close()
