"""What dispatch over copies of experts costs, and how even it makes the hosts.

    python -m tests.bench.dispatch --json tests/bench/results/dispatch.json

No model runs: the hosts' times are those that their costs say. The file keeps the parts
that a run does not measure.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from router.dispatch.cost_model import CostModel
from router.dispatch.planner import Planner
from router.dispatch.settings import DispatchSection, PolicyName
from router.dispatch.types import POLICIES, host_seconds
from tests.bench.dispatch_layers import COST_S, Popularity, Setting
from tests.reference import dispatch as reference
from tests.router.dispatch.cases import NUM_EXPERTS, Case, shares_of

SHAPES = ((16, 4), (64, 8), (128, 8), (256, 8))
HOSTS = (2, 8, 16)
COPIES = (1.0, 1.25, 2.0)
TOKENS = (1, 4, 16, 32, 256, 2048)
NUM_DRAWS = 8


@dataclass(frozen=True)
class TimeRow:
    """Medians over the rounds, of calls with other tokens in turn."""

    num_experts: int
    top_k: int
    num_hosts: int
    copies: float
    num_tokens: int
    plan_us: dict[PolicyName, float]
    """A whole plan, all parcels grouped."""
    parcels_us: float
    """All parcels of such a plan, taken out of it."""
    replan_us: float
    """After one host has died."""


@dataclass(frozen=True)
class BalanceRow:
    """Means over calls with other tokens, all hosts alike."""

    popularity: Popularity
    num_experts: int
    top_k: int
    num_hosts: int
    copies: float
    num_tokens: int
    slowest_us: dict[PolicyName, float]
    slowest_over_mean: dict[PolicyName, float]
    """Of all hosts; one that is sent nothing counts as 0."""
    most_activated: dict[PolicyName, float]
    """Experts of the host that has most."""
    rows_per_token: dict[PolicyName, float]
    """To how many hosts a token's hidden state is sent."""


@dataclass(frozen=True)
class OptimumRow:
    """The slowest host against the best that any shares give, in tiny layers."""

    cost: tuple[float, float, float]
    hosts: str
    policy: PolicyName
    num_layers: int
    share_optimal: float
    mean_ratio: float
    worst_ratio: float


@dataclass(frozen=True)
class CostRow:
    """Medians over the rounds."""

    num_hosts: int
    observe_us: float
    costs_us: float


def measure_time(num_rounds: int) -> Iterator[TimeRow]:
    """Each call by itself, popularity even."""
    for (num_experts, top_k), num_hosts, copies in product(SHAPES, HOSTS, COPIES):
        setting = Setting(num_experts, top_k, num_hosts, copies)
        for num_tokens in TOKENS:
            rounds = max(NUM_DRAWS, min(num_rounds, num_rounds * 64 // num_tokens))
            yield _time_row(setting, num_tokens, rounds)


def _time_row(setting: Setting, num_tokens: int, num_rounds: int) -> TimeRow:
    draws = [setting.topk_ids(num_tokens, seed) for seed in range(NUM_DRAWS)]
    costs, busy_s = setting.costs, np.zeros(setting.num_hosts)
    planners = {policy: Planner(setting.expert_map, policy) for policy in POLICIES}
    survivor = Planner(setting.expert_map, "activated_experts")
    survivor.set_live(np.arange(setting.num_hosts) > 0)
    times: dict[str, list[float]] = {name: [] for name in (*POLICIES, "parcels", "replan")}
    gc.disable()
    for number in range(num_rounds + NUM_DRAWS):
        ids = draws[number % NUM_DRAWS]
        for policy, planner in planners.items():
            times[policy].append(_time_us(planner.plan, 0, ids, costs, busy_s))
        plan = planners["activated_experts"].plan(0, ids, costs, busy_s)
        times["parcels"].append(_time_us(getattr, plan, "parcels"))
        times["replan"].append(_time_us(survivor.replan, plan, 0, ids, costs, busy_s))
    gc.enable()
    found = {k: round(statistics.median(v[NUM_DRAWS:]), 1) for k, v in times.items()}
    return TimeRow(
        num_experts=setting.num_experts,
        top_k=setting.top_k,
        num_hosts=setting.num_hosts,
        copies=setting.copies,
        num_tokens=num_tokens,
        plan_us={policy: found[policy] for policy in POLICIES},
        parcels_us=found["parcels"],
        replan_us=found["replan"],
    )


def measure_balance(num_rounds: int) -> Iterator[BalanceRow]:
    """Copies as popularity asks for them."""
    popularities: tuple[Popularity, ...] = ("uniform", "zipf")
    for popularity, (num_experts, top_k) in product(popularities, SHAPES):
        for num_hosts, copies in product(HOSTS, COPIES):
            setting = Setting(num_experts, top_k, num_hosts, copies, popularity)
            for num_tokens in TOKENS:
                num_draws = max(8, min(num_rounds // 4, 2048 // num_tokens))
                yield _balance_row(setting, num_tokens, num_draws)


def _balance_row(setting: Setting, num_tokens: int, num_draws: int) -> BalanceRow:
    costs, busy_s = setting.costs, np.zeros(setting.num_hosts)
    found: dict[PolicyName, np.ndarray[Any, Any]] = {}
    draws = [setting.topk_ids(num_tokens, seed) for seed in range(num_draws)]
    for policy in POLICIES:
        planner = Planner(setting.expert_map, policy)
        measured = []
        for ids in draws:
            plan = planner.plan(0, ids, costs, busy_s)
            done_s = host_seconds(plan, costs, busy_s)
            num_rows = sum(len(parcel.rows) for parcel in plan.parcels.values())
            ratio = done_s.max() / done_s.mean()
            most = plan.num_experts.max()
            measured.append((done_s.max() * 1e6, ratio, most, num_rows / num_tokens))
        found[policy] = np.mean(measured, axis=0)
    columns = [{p: round(float(found[p][i]), 3) for p in POLICIES} for i in range(4)]
    return BalanceRow(
        setting.popularity,
        setting.num_experts,
        setting.top_k,
        setting.num_hosts,
        setting.copies,
        num_tokens,
        *columns,
    )


def measure_optimum(num_rounds: int) -> Iterator[OptimumRow]:
    """Random layers of 2 to 4 hosts, for costs as in decode and as in prefill."""
    fixed_s, per_expert_s, per_pair_s = COST_S
    all_costs = [COST_S, (fixed_s, per_expert_s, 10 * per_pair_s), (0.0, 0.0, fixed_s)]
    for cost, is_alike in product(all_costs, (True, False)):
        cases = [_tiny_case(cost, is_alike, seed) for seed in range(2 * num_rounds)]
        best = [reference.best_s(case.layer, case.experts) for case in cases]
        for policy in POLICIES:
            found = [case.layer.slowest_s(shares_of(case.plan(policy))) for case in cases]
            ratios = np.array(found) / np.array(best)
            yield OptimumRow(
                cost=cost,
                hosts="alike" if is_alike else "up to 4 times as slow, busy",
                policy=policy,
                num_layers=len(cases),
                share_optimal=round(float((ratios < 1 + 1e-9).mean()), 3),
                mean_ratio=round(float(ratios.mean()), 4),
                worst_ratio=round(float(ratios.max()), 3),
            )


def _tiny_case(cost: tuple[float, float, float], is_alike: bool, seed: int) -> Case:
    """Hosts of one to three copies; each expert has one at least."""
    rng = random.Random(seed)
    num_hosts, experts = rng.randint(2, 4), range(NUM_EXPERTS)
    host_slots = [sorted(rng.sample(experts, rng.randint(1, 3))) for _ in range(num_hosts)]
    for expert in experts:
        if not any(expert in slots for slots in host_slots):
            rng.choice(host_slots).append(expert)
    slowness = [1.0 if is_alike else rng.uniform(1, 4) for _ in range(num_hosts)]
    return Case(
        host_slots=host_slots,
        topk_ids=[rng.sample(experts, 2) for _ in range(rng.randint(1, 6))],
        costs=[(cost[0] * s, cost[1] * s, cost[2] * s) for s in slowness],
        busy_s=[0.0 if is_alike else rng.uniform(0, 20) * sum(cost) for _ in slowness],
        is_live=[True] * num_hosts,
    )


def measure_costs(num_rounds: int) -> Iterator[CostRow]:
    """Learning what hosts cost."""
    for num_hosts in HOSTS:
        model = CostModel(DispatchSection())
        model.set_hosts(Setting(16, 4, num_hosts, 1.0).expert_map.hosts)
        learn, ask = [], []
        for number in range(10 * num_rounds):
            host, size = number % num_hosts, 1 + number % 13
            learn.append(_time_us(model.observe, host, size, 3 * size, 1e-4 + size * 1e-5))
            ask.append(_time_us(model.costs))
        yield CostRow(
            num_hosts, round(statistics.median(learn), 2), round(statistics.median(ask), 2)
        )


def _time_us(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - started) / 1000


def _text(report: dict[str, list[Any]]) -> str:
    """As JSON, a row to a line."""
    parts = [
        f"{json.dumps(part)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
        for part, rows in report.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


PARTS: dict[str, Callable[[int], Iterator[Any]]] = {
    "time": measure_time,
    "balance": measure_balance,
    "optimum": measure_optimum,
    "costs": measure_costs,
}


def main() -> None:
    """Measure the parts asked for, and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=200, help="of each call (default 200)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    report = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for part in given.parts:
        report[part] = []
        for row in PARTS[part](given.rounds):
            report[part].append(asdict(row))
            print(part, json.dumps(asdict(row)), flush=True)
    if given.json:
        given.json.write_text(_text(report))
        print(f"written to {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
