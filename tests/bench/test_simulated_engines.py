"""The simulated engines do what their description says."""

import random

import pytest

from tests.bench.scaling_policies import Limits, Policy, Result, simulate
from tests.bench.simulated_engines import Pace, Request, SimulatedEngine

PACE = Pace(
    1000.0, step_s=0.01, sequence_s=0.001, max_num_seqs=4, max_batched_tokens=100, kv_tokens=900
)


def engine_with(*requests: Request) -> SimulatedEngine:
    engine = SimulatedEngine(PACE, ready_s=0.0)
    for request in requests:
        engine.advance(request.arrived_s)
        engine.add(request.arrived_s, request)
    return engine


def test_a_request_alone_takes_what_its_prompt_and_steps_take() -> None:
    request = Request(1.0, prompt_tokens=250, output_tokens=3)
    engine = engine_with(request)
    engine.advance(100.0)
    assert request.ttft_s == pytest.approx(3 * 0.01 + 0.25)
    assert request.ttft_s == pytest.approx(PACE.alone_s(request))
    assert request.finished_s == pytest.approx(1.28 + 2 * 0.011)
    engine.check_invariants()


def test_prompts_are_computed_in_the_order_in_which_they_came() -> None:
    first, second = Request(0.0, 150, 1), Request(0.0, 50, 1)
    engine = engine_with(first, second)
    # The first step began before the second was there; the next has room for both.
    engine.advance(0.11)
    assert (engine.queued_tokens, engine.signals(0.11).waiting_tokens) == (100, 50)
    engine.advance(10.0)
    assert [first.ttft_s, second.ttft_s] == pytest.approx([0.22, 0.22])


def test_what_does_not_fit_into_the_cache_waits() -> None:
    long, other = Request(0.0, 500, 200), Request(0.0, 300, 10)
    engine = engine_with(long, other)
    engine.advance(2.0)
    assert long.first_token_s < 2.0 < other.first_token_s
    engine.advance(100.0)
    assert other.first_token_s > long.finished_s > 0
    engine.check_invariants()


def test_any_load_is_served_and_leaves_nothing() -> None:
    dice = random.Random(1)
    at_s = 0.0
    requests = []
    for _ in range(200):
        at_s += dice.expovariate(2.0)
        requests.append(Request(at_s, dice.randint(1, 400), dice.randint(1, 60)))
    engine = engine_with(*requests)
    engine.check_invariants()
    engine.advance(10_000.0)
    engine.check_invariants()
    assert engine.num_sequences == 0
    assert all(r.finished_s >= r.first_token_s > r.arrived_s for r in requests)


def served_by(count: int) -> Result:
    """By so many engines, from the beginning on."""
    policy = Policy("fixed", lambda _pace, _clock: lambda _context: (count, {}), at_first=count)
    requests = [Request(0.4 * number, 400, 5) for number in range(200)]
    return simulate(policy, requests, Limits(PACE, start_s=10, at_first=1, most=4))


def test_more_engines_let_wait_less() -> None:
    one, two = served_by(1), served_by(2)
    assert (one.mean_replicas, two.mean_replicas) == (1, 2)
    assert one.wait_p95_s > two.wait_p95_s
    assert two.num_started == 0
