"""What it costs that routed experts live on expert hosts: one engine with them, one without.

    python -m tests.bench.big_moe build/big-moe
    python -m tests.bench.experts build/big-moe --json tests/bench/results/experts.json
    python -m tests.bench.experts smollm2-carved-16x12

Both engines are there at once, each in a process of its own, and take turns on the same
cores. The hosts compute with as many threads together as the engine, which waits for them
meanwhile (`overlap_shared` is off, as they share cores). A round is one batch of prompts for
each; ratios are those of the same round.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.models.resolve import resolve_model
from experts.checkpoint.reader import CheckpointReader
from tests.bench.experts_engine import NUM_PROMPT_TOKENS
from tests.builders.cluster import STATE_DIR
from tests.builders.expert_tier import local_tier
from tests.builders.json_child import JsonChild

SHARES = ("plan_s", "send_s", "wait_s", "local_s", "combine_s", "compute_s", "queue_s")


@dataclass(frozen=True)
class Row:
    """One batch size: medians over the rounds; times in seconds."""

    batch: int
    num_rounds: int
    engine_tokens_per_s: float
    service_tokens_per_s: float
    throughput_ratio: float
    ratio_min: float
    ratio_max: float
    engine_tpot_s: float
    service_tpot_s: float
    tpot_ratio: float
    """Of the engine's time to the service's."""
    shares: Mapping[str, float]
    """Of the service's whole time."""
    bytes_per_token: float
    """Sent and received, for each token and layer."""
    num_local_pairs: int


class EngineProcess:
    """See `tests.bench.experts_engine`."""

    def __init__(self, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._child = JsonChild("tests.bench.experts_engine", environment)
        self._child.say(arguments)
        self._child.hear()
        self.pid = self._child.pid
        self.close = self._child.close

    def ask(self, batch: int, num_tokens: int, seed: int) -> dict[str, Any]:
        """Times of one batch."""
        self._child.say({"batch": batch, "num_tokens": num_tokens, "seed": seed})
        return self._child.hear()


@dataclass(frozen=True)
class Layout:
    """Who computes with what."""

    cores: Sequence[int]
    num_hosts: int
    is_eager: bool

    @property
    def num_host_threads(self) -> int:
        """Of each host; all together as many as there are cores."""
        return max(1, len(self.cores) // self.num_hosts)

    @property
    def environment(self) -> dict[str, str]:
        """Of each engine."""
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, self.cores)),
            # Without it there are as many threads as the machine has cores, wherever bound.
            "OMP_NUM_THREADS": str(len(self.cores)),
        }


@contextmanager
def engines(model: Path, layout: Layout) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """One with its experts, one whose experts are on hosts."""
    checkpoint = CheckpointReader.open(model)
    shape, dtype = checkpoint.config.shape, checkpoint.dtype
    num_slots = -(-shape.num_experts // layout.num_hosts)
    common = {"enforce_eager": layout.is_eager, "dtype": dtype}
    with local_tier(
        model,
        layout.num_hosts,
        num_slots,
        dtype,
        num_threads=layout.num_host_threads,
        cores=layout.cores if layout.num_hosts == 1 else None,
    ) as tier:
        variables = layout.environment
        own = EngineProcess({"model": str(model)} | common, variables)
        arguments = tier.engine_arguments(overlap_shared=False) | common
        hosted = EngineProcess(arguments, variables | tier.environment)
        try:
            yield own, hosted
        finally:
            own.close()
            hosted.close()


def measure(
    own: EngineProcess, hosted: EngineProcess, batch: int, num_rounds: int, num_tokens: int
) -> Row:
    """One batch size, after one round that warms up."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number in range(-1, num_rounds):
        ask = (batch, num_tokens, 1000 * batch + number)
        if number % 2:
            service, engine = hosted.ask(*ask), own.ask(*ask)
        else:
            engine, service = own.ask(*ask), hosted.ask(*ask)
        if number >= 0:
            found.append((engine, service))
            sys.stderr.write(
                f"batch {batch}: {engine['seconds']:.2f} s in the engine, "
                f"{service['seconds']:.2f} s with hosts\n"
            )
    return _row(found, batch, num_tokens)


def _row(
    found: Sequence[tuple[dict[str, Any], dict[str, Any]]], batch: int, num_tokens: int
) -> Row:
    def tpot_s(answer: dict[str, Any]) -> float:
        return float(answer["seconds"] - answer["first_s"]) / (num_tokens - 1)

    ratios = [engine["seconds"] / service["seconds"] for engine, service in found]
    services = [service for _, service in found]
    num_asked = sum(service["stats"]["num_tokens"] for service in services)
    num_bytes = sum(
        service["stats"]["num_bytes_sent"] + service["stats"]["num_bytes_received"]
        for service in services
    )
    median = statistics.median
    return Row(
        batch=batch,
        num_rounds=len(found),
        engine_tokens_per_s=median(batch * num_tokens / e["seconds"] for e, _ in found),
        service_tokens_per_s=median(batch * num_tokens / s["seconds"] for s in services),
        throughput_ratio=median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        engine_tpot_s=median(tpot_s(engine) for engine, _ in found),
        service_tpot_s=median(tpot_s(service) for service in services),
        tpot_ratio=median(tpot_s(engine) / tpot_s(service) for engine, service in found),
        shares={
            key: median(service["stats"][key] / service["seconds"] for service in services)
            for key in SHARES
        },
        bytes_per_token=num_bytes / num_asked,
        num_local_pairs=sum(service["stats"]["num_local_pairs"] for service in services),
    )


def main() -> None:
    """Measure and print a row of JSON for each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a mixture of experts: its folder, or its reference")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--tokens", type=int, default=32, help="output tokens of each prompt (default 32)"
    )
    parser.add_argument("--hosts", type=int, default=2, help="expert hosts (default 2)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="default 0 1")
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the model")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    layout = Layout(arguments.cores, arguments.hosts, is_eager=not arguments.compiled)
    path = Path(arguments.model)
    if not path.is_dir():
        path = Path(resolve_model(arguments.model, STATE_DIR).path)
    with engines(path, layout) as (own, hosted):
        rows = [
            measure(own, hosted, batch, arguments.rounds, arguments.tokens)
            for batch in arguments.batches
        ]
    what = {
        "model": Path(arguments.model).name,
        "num_prompt_tokens": NUM_PROMPT_TOKENS,
        "num_output_tokens": arguments.tokens,
        "num_hosts": arguments.hosts,
        "is_eager": layout.is_eager,
    }
    rows_json = [asdict(row) for row in rows]
    text = json.dumps({"load": what, "rows": rows_json}, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
