"""Placements of synthetic loads: experts dealt out in turn, EPLB's way, and by cost."""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.placement.cost import copy_costs, host_times, imbalance, slowest_time
from experts.placement.hosts import HostSpec
from experts.placement.layout import empty_map, with_held
from experts.placement.load import Load
from experts.placement.pack import num_copies
from experts.placement.plan import plan
from experts.settings import AlgorithmName, RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap, HostId

Model = tuple[int, int, int]
"""Layers, experts, experts of a token."""

DECODE_TOKENS = 64
"""Tokens of a step: reading the activated experts takes the time."""
PREFILL_TOKENS = 4096
"""Tokens of a step: computing takes the time."""
STEPS_PER_S = 20
NUM_TIMED = 3
DRIFTING_SHARE = 0.1
"""Of a layer's experts, that change places in popularity in each period."""


@dataclass(frozen=True)
class EvenRow:
    """Slowest over mean host time; medians of planning time, from nothing."""

    tokens_per_step: int
    power: float
    """Of Zipf's law, by which experts are popular, in each layer others."""
    num_layers: int
    num_experts: int
    num_hosts: int
    slots_factor: float
    least: float
    """No placement that shares an expert evenly among its copies can be below this."""
    round_robin: float
    eplb: float
    cost: float
    eplb_plan_ms: float
    cost_plan_ms: float


@dataclass(frozen=True)
class UnequalRow:
    """Slowest host time over what all would take if work could be divided at will."""

    power: float
    num_layers: int
    num_experts: int
    num_hosts: int
    slots_factor: float
    round_robin: float
    eplb: float
    cost: float


@dataclass(frozen=True)
class DriftRow:
    """Slowest over mean host time, planned anew for each period: for the period itself,
    and for the next one, in which the plan is used. Means over the periods."""

    num_layers: int
    num_experts: int
    num_hosts: int
    slots_factor: float
    round_robin: float
    eplb_planned: float
    eplb_used: float
    cost_planned: float
    cost_used: float
    eplb_moves_per_layer: float
    cost_moves_per_layer: float
    cost_plan_ms: float


def measure_even(
    models: Sequence[Model],
    hosts: Sequence[int],
    factors: Sequence[float],
    powers: Sequence[float],
) -> Iterator[EvenRow]:
    """A row for each model, number of hosts, factor of slots and power of Zipf's law."""
    cases = itertools.product((DECODE_TOKENS, PREFILL_TOKENS), models, hosts, factors, powers)
    for num_tokens, model, count, factor, power in cases:
        specs = fleet(model[1], count, factor)
        load = load_of(model, popularity(model, power), num_tokens)
        eplb, eplb_ms = _timed_plan("eplb", load, specs)
        cost, cost_ms = _timed_plan("cost", load, specs)
        yield EvenRow(
            tokens_per_step=num_tokens,
            power=power,
            num_layers=model[0],
            num_experts=model[1],
            num_hosts=count,
            slots_factor=factor,
            least=round(least_imbalance(load, specs), 3),
            round_robin=_imbalance(dealt_out(model, specs), load, specs),
            eplb=_imbalance(eplb, load, specs),
            cost=_imbalance(cost, load, specs),
            eplb_plan_ms=eplb_ms,
            cost_plan_ms=cost_ms,
        )


def measure_unequal(
    models: Sequence[Model],
    hosts: Sequence[int],
    factors: Sequence[float],
    powers: Sequence[float],
) -> Iterator[UnequalRow]:
    """The same where every other host takes twice as long."""
    for model, count, factor, power in itertools.product(models, hosts, factors, powers):
        specs = fleet(model[1], count, factor, slow=2.0)
        load = load_of(model, popularity(model, power))
        alone = fleet(model[1], 1, 1.0)
        # Half of the hosts do one's work, half of them half of it.
        ideal = slowest_time(host_times(dealt_out(model, alone), load, alone)) / (0.75 * count)
        maps = [dealt_out(model, specs)]
        maps += [plan(load, specs, None, _settings(name)) for name in ("eplb", "cost")]
        ratios = [round(slowest_time(host_times(m, load, specs)) / ideal, 3) for m in maps]
        yield UnequalRow(power, *model[:2], count, factor, *ratios)


def measure_drift(
    models: Sequence[Model], hosts: Sequence[int], factors: Sequence[float], num_periods: int
) -> Iterator[DriftRow]:
    """Zipf's law with the power 1, whose ranks wander."""
    for model, count, factor in itertools.product(models, hosts, factors):
        specs = fleet(model[1], count, factor)
        loads = list(_drifting(model, num_periods + 1))
        static = [host_times(dealt_out(model, specs), load, specs) for load in loads]
        eplb, cost = (_followed(name, loads, specs) for name in ("eplb", "cost"))
        yield DriftRow(
            num_layers=model[0],
            num_experts=model[1],
            num_hosts=count,
            slots_factor=factor,
            round_robin=round(statistics.mean(map(imbalance, static)), 3),
            eplb_planned=eplb.planned,
            eplb_used=eplb.used,
            cost_planned=cost.planned,
            cost_used=cost.used,
            eplb_moves_per_layer=eplb.moves_per_layer,
            cost_moves_per_layer=cost.moves_per_layer,
            cost_plan_ms=cost.plan_ms,
        )


@dataclass(frozen=True)
class Followed:
    """What an algorithm makes of a drifting load."""

    planned: float
    used: float
    moves_per_layer: float
    plan_ms: float


def fleet(num_experts: int, count: int, factor: float, slow: float = 1.0) -> list[HostSpec]:
    """Hosts of as many slots each; every second one takes `slow` times as long."""
    num_slots = -(-round(num_experts * factor) // count)
    alike = HostSpec(HostId(""), num_slots)
    return [
        HostSpec(
            HostId(f"h{i}"),
            num_slots,
            alike.activation_s * (slow if i % 2 else 1.0),
            alike.token_s * (slow if i % 2 else 1.0),
        )
        for i in range(count)
    ]


def popularity(model: Model, power: float) -> NDArray[np.float64]:
    """Zipf's law, in another order in each layer. Shape: [num_layers, num_experts]."""
    rng = np.random.default_rng(3)
    shares = np.arange(1, model[1] + 1) ** -power
    return np.stack([rng.permutation(shares / shares.sum()) for _ in range(model[0])])


def load_of(model: Model, shares: NDArray[np.float64], num_tokens: int = DECODE_TOKENS) -> Load:
    """Of steps of so many tokens; an expert is active where one of them chose it."""
    chance = np.minimum(shares * model[2], 1.0)
    activations = 1 - (1 - chance) ** num_tokens
    return Load(STEPS_PER_S * num_tokens * chance, STEPS_PER_S * activations)


def dealt_out(model: Model, specs: Sequence[HostSpec]) -> ExpertMap:
    """Experts to hosts in turn until all slots are full, each round one host further."""
    empty = empty_map(model[0], model[1], specs)
    row = np.full(empty.num_slots, EMPTY_SLOT, np.int16)
    next_slot = empty.host_to_first_slot[:-1].copy()
    for number in range(empty.num_slots):
        host = (number + number // model[1]) % len(specs)
        row[next_slot[host]] = number % model[1]
        next_slot[host] += 1
    assert (next_slot == empty.host_to_first_slot[1:]).all()
    return with_held(empty, np.tile(row, (model[0], 1)))


def least_imbalance(load: Load, specs: Sequence[HostSpec]) -> float:
    """Of hosts alike: each layer waits for a host of mean time, or for the costliest copy
    where the copies are given out so that this costs the least; without a slot to spare
    also for what must be beside it."""
    num_slots = sum(spec.num_slots for spec in specs)
    slowest, mean = 0.0, 0.0
    for layer in range(len(load.tokens_per_s)):
        cost = copy_costs(load, layer, specs)
        copies = num_copies(cost, num_slots, min_copies=1)
        costs = np.sort(cost[np.arange(len(cost)), copies, 0])
        beside = costs[: specs[0].num_slots - 1] if num_slots == len(cost) else costs[:0]
        costliest = costs[-1] + np.sum(beside)
        layer_mean = cost[:, 1, 0].sum() / len(specs)
        slowest += max(layer_mean, costliest)
        mean += layer_mean
    return float(slowest / mean)


def _settings(algorithm: AlgorithmName) -> RebalanceSection:
    return RebalanceSection(algorithm=algorithm)


def _imbalance(found: ExpertMap, load: Load, specs: Sequence[HostSpec]) -> float:
    return round(imbalance(host_times(found, load, specs)), 3)


def _timed_plan(
    algorithm: AlgorithmName, load: Load, specs: Sequence[HostSpec]
) -> tuple[ExpertMap, float]:
    times_ms = []
    for _ in range(NUM_TIMED):
        started = time.perf_counter()
        found = plan(load, specs, None, _settings(algorithm))
        times_ms.append(1000 * (time.perf_counter() - started))
    found.check_invariants()
    assert found.is_covering
    return found, round(statistics.median(times_ms), 1)


def _drifting(model: Model, num_periods: int) -> Iterator[Load]:
    rng = np.random.default_rng(9)
    shares = popularity(model, 1.0)
    for _ in range(num_periods):
        yield load_of(model, shares)
        for row in shares:
            moved = rng.choice(
                model[1], max(2, round(DRIFTING_SHARE * model[1])), replace=False
            )
            row[moved] = row[rng.permutation(moved)]


def _followed(
    algorithm: AlgorithmName, loads: Sequence[Load], specs: Sequence[HostSpec]
) -> Followed:
    current = plan(loads[0], specs, None, _settings(algorithm))
    planned, used, moves, times_ms = [], [], [], []
    for load, next_load in itertools.pairwise(loads):
        started = time.perf_counter()
        target = plan(load, specs, current, _settings(algorithm))
        times_ms.append(1000 * (time.perf_counter() - started))
        changed = target.physical_to_logical != current.physical_to_logical
        moves.append((changed & (target.physical_to_logical != EMPTY_SLOT)).sum())
        planned.append(imbalance(host_times(target, load, specs)))
        used.append(imbalance(host_times(target, next_load, specs)))
        current = target
    return Followed(
        planned=round(statistics.mean(planned), 3),
        used=round(statistics.mean(used), 3),
        # In the first period there is nothing to follow yet.
        moves_per_layer=round(float(np.mean(moves[1:])) / current.num_layers, 1),
        plan_ms=round(statistics.median(times_ms), 1),
    )
