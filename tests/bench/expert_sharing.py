"""Two engines that share an expert tier, beside two that have their experts themselves.

    python -m tests.bench.big_moe build/big-moe
    python -m tests.bench.expert_sharing build/big-moe \\
        --json tests/bench/results/expert_sharing.json

Memory is what the processes have for themselves and their part of what they share (PSS),
read at the end. The pages of files that they have mapped, the checkpoint among them, stand by
themselves: the kernel takes them back where memory is short. Engines have a core each, as
replicas of a node have; the hosts have all. One pair runs after the other in each round.
"""

import argparse
import json
import statistics
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experts.checkpoint.reader import CheckpointReader
from tests.bench.experts import EngineProcess, Layout
from tests.builders.expert_tier import ExpertHostProcess, local_tier


@dataclass(frozen=True)
class Row:
    """One batch size for each of the two engines: medians over the rounds."""

    batch: int
    num_rounds: int
    own_tokens_per_s: float
    shared_tokens_per_s: float
    throughput_ratio: float


@dataclass(frozen=True)
class Memory:
    """Of some processes, in bytes."""

    own_bytes: int
    file_bytes: int
    """Of mapped files."""


@dataclass(frozen=True)
class Report:
    """All of it."""

    own: Memory
    """Of two engines with their experts."""
    shared: Memory
    """Of two engines without, and of all hosts."""
    memory_ratio: float
    """Without pages of files."""
    rows: Sequence[Row]


def memory_of(pids: Sequence[int]) -> Memory:
    """Of these processes, as the kernel adds it up."""
    own_bytes = file_bytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, kilobytes = line.split()[:2]
            own_bytes += 1024 * int(kilobytes) * (name in ("Pss_Anon:", "Pss_Shmem:"))
            file_bytes += 1024 * int(kilobytes) * (name == "Pss_File:")
    return Memory(own_bytes, file_bytes)


def at_once(engines: Sequence[EngineProcess], *ask: int) -> float:
    """Seconds until both have answered."""
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda engine=engine: found.append(engine.ask(*ask)))
        for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(float(answer["seconds"]) for answer in found)


def measure(model: Path, layout: Layout, batches: Sequence[int], num_rounds: int) -> Report:
    """Both pairs are there at once; the one that is not asked waits."""
    num_tokens = 32
    checkpoint = CheckpointReader.open(model)
    num_slots = -(-checkpoint.config.shape.num_experts // layout.num_hosts)
    common = {"enforce_eager": True, "dtype": checkpoint.dtype}
    rows = []
    with ExitStack() as stack:
        tier = stack.enter_context(
            local_tier(
                model,
                layout.num_hosts,
                num_slots,
                checkpoint.dtype,
                num_threads=layout.num_host_threads,
                kind=ExpertHostProcess,
            )
        )

        def start(
            number: int, arguments: dict[str, Any], variables: dict[str, str]
        ) -> EngineProcess:
            mine = replace(layout, cores=layout.cores[number::2])
            engine = EngineProcess(arguments | common, mine.environment | variables)
            stack.callback(engine.close)
            return engine

        own = [start(i, {"model": str(model)}, {}) for i in range(2)]
        shared = [start(i, tier.engine_arguments(), tier.environment) for i in range(2)]
        for batch in batches:
            found = []
            for number in range(-1, num_rounds):
                ask = (batch, num_tokens, 100 * batch + number)
                seconds = at_once(own, *ask), at_once(shared, *ask)
                sys.stderr.write(f"batch {batch}: {seconds[0]:.2f} s own, {seconds[1]:.2f} s\n")
                if number >= 0:
                    found.append(seconds)
            rows.append(_row(batch, found, num_tokens))
        hosts = [host.process.pid for host in tier.hosts]
        before = memory_of([engine.pid for engine in own])
        after = memory_of([engine.pid for engine in shared] + hosts)
    return Report(before, after, after.own_bytes / before.own_bytes, rows)


def _row(batch: int, found: Sequence[tuple[float, float]], num_tokens: int) -> Row:
    made = 2 * batch * num_tokens
    return Row(
        batch=batch,
        num_rounds=len(found),
        own_tokens_per_s=statistics.median(made / own for own, _ in found),
        shared_tokens_per_s=statistics.median(made / shared for _, shared in found),
        throughput_ratio=statistics.median(own / shared for own, shared in found),
    )


def main() -> None:
    """Measure and print the report as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a mixture-of-experts checkpoint")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--hosts", type=int, default=1, help="expert hosts (default 1)")
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="default 0 1")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    arguments = parser.parse_args()
    layout = Layout(arguments.cores, arguments.hosts, is_eager=True)
    report = measure(arguments.model, layout, arguments.batches, arguments.rounds)
    text = json.dumps(asdict(report), indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
