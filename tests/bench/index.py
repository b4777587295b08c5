"""What the index of prefixes costs, part by part, against what others do.

    python -m pip install -r tests/bench/index_requirements.txt
    python -m tests.bench.index --json tests/bench/results/index.json

The file keeps the parts that a run does not measure.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.index_lookup import measure_lookups
from tests.bench.index_table import measure_events, measure_memory


def lookup(num_rounds: int) -> Iterator[Any]:
    """Hashing and lookup of prompts."""
    return measure_lookups(
        sizes=(2_000, 8_000, 32_000, 100_000),
        replicas=(8, 64, 256),
        num_others=200_000,
        num_rounds=num_rounds,
    )


def events(num_rounds: int) -> Iterator[Any]:
    """Events applied, always in a few rounds."""
    return measure_events(sizes=(1, 16, 256), num_blocks=51_200)


def memory(num_rounds: int) -> Iterator[Any]:
    """Bytes a block, which are the same in each round."""
    return measure_memory(sizes=(5_000, 20_000, 200_000, 2_000_000), bits=(64, 256))


PARTS: dict[str, Callable[[int], Iterator[Any]]] = {
    "lookup": lookup,
    "events": events,
    "memory": memory,
}


def main() -> None:
    """Measure the parts asked for, and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=200, help="of each lookup (default 200)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    report = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for part in given.parts:
        report[part] = []
        for row in PARTS[part](given.rounds):
            report[part].append(asdict(row))
            print(part, json.dumps(asdict(row)), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
