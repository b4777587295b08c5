"""What telemetry costs: CPU time of a request and of a delta, in one process.

    python -m tests.bench.telemetry_cost

Generations are made up and free, so what is left is the telemetry around them; the
threads that write usage records and export spans are counted too. The receiver of
spans is another process.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from deployments.gateway.service import InferenceService, Prompt
from deployments.gateway.telemetry.gateway_telemetry import GatewayTelemetry
from deployments.settings import GatewaySection
from deployments.types import CallOptions, Delta, RequestId, Sampling
from infra.telemetry.settings import TelemetrySection
from tests.builders.fake_service import FakeGeneration, FakeService

NUM_REQUESTS = 1000
NUM_ROUNDS = 5
FEW, MANY = 2, 102
RECEIVER = """
from tests.builders.otlp_receiver import receiving
with receiving() as (_, endpoint):
    print(endpoint, flush=True)
    input()
"""


class FreeGeneration:
    """So many deltas, at once."""

    request_id = RequestId("r")
    model = "tiny"
    num_prompt_tokens = 100
    queue_s = 1e-5
    has_begun = True
    resumes = ()

    def __init__(self, num_deltas: int) -> None:
        self._num_deltas = num_deltas

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `Generation.deltas`."""
        for _ in range(self._num_deltas - 1):
            yield Delta(0, "x", [1])
        yield Delta(0, "x", [1], "stop")


class FreeService(FakeService):
    """Answers with `max_tokens` deltas."""

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, options: CallOptions
    ) -> FakeGeneration:
        """See `InferenceService.generate`."""
        return cast(FakeGeneration, FreeGeneration(sampling.max_tokens or 1))


async def cpu_s(service: InferenceService, num_deltas: int) -> float:
    """CPU seconds of one request, the least of some rounds."""
    options = CallOptions(request_id="r", on_trace=lambda _: None)
    sampling = Sampling(max_tokens=num_deltas, temperature=0.5)
    rounds = []
    for _ in range(NUM_ROUNDS):
        started_s = time.process_time()
        for _ in range(NUM_REQUESTS):
            generation = await service.generate("tiny", "a prompt", sampling, options)
            async with aclosing(generation.deltas()) as deltas:
                async for _ in deltas:
                    pass
        rounds.append((time.process_time() - started_s) / NUM_REQUESTS)
    return min(rounds)


async def measure(**section: Any) -> tuple[float, float]:
    """Microseconds that a request of few deltas costs, and each delta more."""
    telemetry = GatewayTelemetry(
        TelemetrySection.model_validate(section), GatewaySection(), "secret", "bench"
    )
    bare = FreeService()
    watched = telemetry.watch(bare)
    few_s, many_s = [await cpu_s(watched, n) - await cpu_s(bare, n) for n in (FEW, MANY)]
    await telemetry.close()
    return few_s * 1e6, (many_s - few_s) / (MANY - FEW) * 1e6


async def main(endpoint: str) -> None:
    """Print a row for each kind of telemetry."""
    with tempfile.TemporaryDirectory() as folder:
        usage = {"usage_dir": folder}
        rows: dict[str, dict[str, Any]] = {
            "metrics": {},
            "metrics, usage": usage,
            "metrics, usage, 1 % traced": usage
            | {"otlp_endpoint": endpoint, "trace_sampling_ratio": 0.01},
            "traces alone, none sampled": {
                "metrics": False,
                "otlp_endpoint": endpoint,
                "trace_sampling_ratio": 0.0,
            },
            "traces alone, all sampled": {
                "metrics": False,
                "otlp_endpoint": endpoint,
                "trace_sampling_ratio": 1.0,
            },
        }
        for name, section in rows.items():
            request_us, delta_us = await measure(**section)
            print(f"{name:28} {request_us:6.1f} us a request, {delta_us:5.2f} us a delta")


if __name__ == "__main__":
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as receiver:
        assert receiver.stdin is not None
        assert receiver.stdout is not None
        asyncio.run(main(receiver.stdout.readline().strip()))
        receiver.stdin.write("\n")
