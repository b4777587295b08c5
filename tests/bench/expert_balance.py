"""How even placement and dispatch together make the hosts, on loads as they come.

    python -m tests.bench.expert_balance --json tests/bench/results/expert_balance.json

Copies are placed by what the first half of the steps asked for, as a director does it, and
each step of the second half is dispatched over them by each policy. Loads:

    text     decode steps of the carved model on articles: other ones in each half
    zipf     16, 64 and 256 experts, popular by Zipf's law with the power 1, independently
    drift    the same, but a tenth of the experts change places in popularity after the half

No host runs: times are those that the costs say, of hosts alike. "Slowest over mean" is the
sum of the slowest host's times over the sum of the mean times, of all steps and layers; a
host that a step sends nothing counts as 0.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.models.resolve import resolve_model
from experts.placement.hosts import HostSpec
from experts.placement.load import Load
from experts.placement.plan import plan
from experts.settings import RebalanceSection
from experts.types import ExpertMap, HostId
from router.dispatch.planner import Planner
from router.dispatch.settings import PolicyName
from router.dispatch.types import PER_EXPERT, PER_PAIR, POLICIES, Ints, host_seconds
from tests.bench.dispatch_layers import COST_S, drawn
from tests.bench.recorded_gates import RecordedGates, record
from tests.builders.cluster import STATE_DIR

HOSTS = (2, 4, 8)
COPIES = (1.0, 1.25, 2.0)
BATCHES = (1, 4, 16, 64)
NUM_SEQUENCES, NUM_PLACES = max(BATCHES), 96
_FIRST_PLACE = 4
"""The first tokens of a sequence see nothing before them."""
ZIPF_SHAPES = ((16, 4), (64, 8), (256, 8))
NUM_ZIPF_STEPS = 200
DRIFTING_SHARE = 0.1


@dataclass(frozen=True)
class Row:
    """One load, on some hosts."""

    load: str
    num_experts: int
    top_k: int
    batch: int
    num_hosts: int
    copies: float
    """Slots in relation to experts."""
    slowest_over_mean: dict[PolicyName, float]
    slowest_us: dict[PolicyName, float]
    """Mean over the steps and layers."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Steps of one layer."""

    num_experts: int
    before: list[Ints]
    after: list[Ints]

    def load(self) -> Load:
        """What the steps before ask for, as hosts count it; in steps, not in seconds."""
        tokens, activations = np.zeros((2, 1, self.num_experts))
        for ids in self.before:
            counts = np.bincount(ids.ravel(), minlength=self.num_experts)
            tokens[0] += counts
            activations[0] += counts > 0
        return Load(tokens / len(self.before), activations / len(self.before))


def recorded_layers(gates: RecordedGates, batch: int) -> list[Layer]:
    """Each half of the text's places, of as many sequences as are in a step. With fewer
    than were recorded the halves are of other sequences too."""
    num_layers, num_sequences, num_places, _ = gates.topk_ids.shape
    places = range(_FIRST_PLACE, num_places)
    half = len(places) // 2
    layers = []
    for layer in range(num_layers):
        first = [gates.step(layer, place, slice(batch)) for place in places[:half]]
        last = slice(num_sequences - batch, num_sequences)
        then = [gates.step(layer, place, last) for place in places[half:]]
        layers.append(Layer(gates.num_experts, first, then))
    return layers


def drawn_layers(num_experts: int, top_k: int, batch: int, drift: bool) -> list[Layer]:
    """One layer of steps that are drawn at random."""
    rng = np.random.default_rng(11)
    shares = rng.permutation(1.0 / np.arange(1, num_experts + 1))
    before = [drawn(shares, batch, top_k, rng) for _ in range(NUM_ZIPF_STEPS)]
    if drift:
        num_moved = max(2, round(DRIFTING_SHARE * num_experts))
        moved = rng.choice(num_experts, num_moved, replace=False)
        shares[moved] = shares[np.roll(moved, 1)]
    after = [drawn(shares, batch, top_k, rng) for _ in range(NUM_ZIPF_STEPS)]
    return [Layer(num_experts, before, after)]


def placed(layer: Layer, num_hosts: int, copies: float) -> ExpertMap:
    """As a director does it that has seen the steps before."""
    num_slots = min(layer.num_experts, -(-round(layer.num_experts * copies) // num_hosts))
    specs = [
        HostSpec(HostId(f"h{i}"), num_slots, COST_S[PER_EXPERT], COST_S[PER_PAIR])
        for i in range(num_hosts)
    ]
    return plan(layer.load(), specs, None, RebalanceSection(algorithm="cost"))


def measure(name: str, layers: list[Layer], num_hosts: int, copies: float) -> Row:
    """All policies on the same steps and copies."""
    batch, top_k = layers[0].after[0].shape
    costs, busy_s = np.tile(COST_S, (num_hosts, 1)), np.zeros(num_hosts)
    maps = [placed(layer, num_hosts, copies) for layer in layers]
    ratios: dict[PolicyName, float] = {}
    slowest: dict[PolicyName, float] = {}
    for policy in POLICIES:
        times: list[NDArray[np.float64]] = []
        for layer, expert_map in zip(layers, maps, strict=True):
            planner = Planner(expert_map, policy)
            times += [
                host_seconds(planner.plan(0, ids, costs, busy_s), costs, busy_s)
                for ids in layer.after
            ]
        done_s = np.stack(times)
        slowest[policy] = round(float(done_s.max(axis=1).mean() * 1e6), 1)
        ratios[policy] = round(float(done_s.max(axis=1).sum() / done_s.mean(axis=1).sum()), 3)
    return Row(name, layers[0].num_experts, top_k, batch, num_hosts, copies, ratios, slowest)


def rows(gates: RecordedGates) -> Iterator[Row]:
    """Those of text, and those of chance."""
    for batch in BATCHES:
        loads = [("text", recorded_layers(gates, batch))]
        for num_experts, top_k in ZIPF_SHAPES:
            for name in ("zipf", "drift"):
                layers = drawn_layers(num_experts, top_k, batch, drift=name == "drift")
                loads.append((name, layers))
        for (name, layers), num_hosts, copies in itertools.product(loads, HOSTS, COPIES):
            yield measure(name, layers, num_hosts, copies)


def main() -> None:
    """Measure and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-carved-16x12", help="model reference")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    model = Path(resolve_model(given.model, STATE_DIR).path)
    gates = record(model, NUM_SEQUENCES, NUM_PLACES)
    found: list[dict[str, Any]] = []
    for row in rows(gates):
        found.append(asdict(row))
        print(json.dumps(found[-1]), flush=True)
    if given.json:
        lines = ",\n".join(map(json.dumps, found))
        given.json.write_text(f"[\n{lines}\n]\n")
        print(f"written to {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
