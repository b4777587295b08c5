"""A single CPU rank inside the engine core's own process.

vLLM's CPU backend turns its in-process executor into a second process, to
give the rank's threads their cores by environment; the core then spins,
yielding its core over and over while a step runs. On a small machine that
takes half of it away from everybody else. A process that is started with the
right environment needs no second one (see `plan.plan_thread_environment`).
"""

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from deployments.drafts.in_engine import cpu_sampling


class CoreExecutor(UniProcExecutor):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's in-process executor under a name that its CPU backend leaves alone."""

    def _init_executor(self) -> None:
        # Before any draft is verified, whoever proposes it.
        cpu_sampling.mend()
        super()._init_executor()
