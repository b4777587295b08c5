"""How even placements make the hosts' time, what they move and how long they think.

    python -m tests.bench.placement --json tests/bench/results/placement.json

Predicted, not measured: host times are those of `experts.placement.cost`, the formula that
the algorithm `cost` minimizes and `eplb` does not know. The file keeps the parts that a run
does not measure.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.placement_cases import measure_drift, measure_even, measure_unequal

MODELS = ((4, 16, 4), (16, 64, 6), (48, 256, 8))
"""Layers, experts, experts of a token."""
FACTORS = (1.0, 1.25, 1.5)


def even() -> Iterator[Any]:
    """Hosts alike, a load that stays; decode and prefill."""
    return measure_even(MODELS, hosts=(2, 4, 8, 16), factors=FACTORS, powers=(0.8, 1.2))


def unequal() -> Iterator[Any]:
    """Half of the hosts take twice as long."""
    return measure_unequal(MODELS, hosts=(4, 16), factors=FACTORS, powers=(0.8, 1.2))


def drift() -> Iterator[Any]:
    """A load that moves from expert to expert."""
    return measure_drift(MODELS, hosts=(4, 16), factors=(1.25, 1.5), num_periods=8)


PARTS: dict[str, Callable[[], Iterator[Any]]] = {
    "even": even,
    "unequal": unequal,
    "drift": drift,
}


def main() -> None:
    """Measure the parts asked for, and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    report = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for part in given.parts:
        report[part] = []
        for row in PARTS[part]():
            report[part].append(asdict(row))
            print(part, json.dumps(asdict(row)), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
