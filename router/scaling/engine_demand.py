"""How many engine replicas a model needs: pure, with a short memory.

*Demand* is how many replicas' worth of work there is, a number with a fraction: the largest of

    sequences   (under way + held) / (max_num_seqs * target_occupancy)
    prompts     prompt tokens asked a second / (speed of a replica * target_prefill_share)
    waits       prompt tokens behind others / (speed of a replica * target_wait_s)
    memory      replicas * mean KV usage / target_kv_usage
    pace        replicas * mean TPOT / target_tpot_s

*Prompts* and *waits* are two views of one thing. What is asked tells of an overload at once,
when its queue has only begun to grow. The queue tells of prompts that get into each other's way
though there seems to be enough; it counts as far as it has lasted for as long as a replica
takes to start, since a shorter one is gone before another replica serves. The prompt that
is computed waits for nobody: where prompts are long, it alone is more than the target.

*Look-ahead*: a replica takes `start_s` from when it is wanted until it serves. Demand that
grows is extended along its trend for so long, but to no more than twice what it is.

*Slack*: one replica fewer is wanted only where the demand would fill the others to
`KEEP_SHARE` of their target at most; else a load on the border between two numbers would
start and end a replica again and again.

Worked example: 2 replicas of 32 sequences, 0.7 aimed at. 60 are under way: 60 / 22.4 = 2.7
replicas' worth, so 3. Then 44 are: 1.96, which 2 could do, but these would be filled to 0.98 of
their target; it stays at 3 until 40 are, 1.79.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from router.scaling.settings import EngineScalingSection

KEEP_SHARE = 0.9
_MAX_GROWTH = 2.0
_TREND_S = 60.0
"""Over how long a trend is looked for, at least."""
_TREND_STARTS = 2.0
"""In starts of a replica: who looks far ahead on what was short, extends chance."""
_FEWEST_POINTS = 4


class EngineSignals(NamedTuple):
    """What one engine replica tells of itself, averaged over a short while."""

    num_sequences: float
    """Under way and waiting in it."""
    asked_tokens_per_s: float
    """Prompt tokens that have come of late, without those that were cached."""
    waiting_tokens: float
    """Prompt tokens behind the prompt that it computes."""
    kv_usage: float
    """Share of its KV cache that sequences hold, in [0, 1]."""
    prefill_tokens_per_s: float
    """Prompt tokens that it computes while it has some; 0 where it does not know."""
    tpot_s: float
    """From token to token of a sequence; 0 where it does not know."""


class Fleet(NamedTuple):
    """All replicas of a model, and what waits for them."""

    replicas: Sequence[EngineSignals]
    """Those that have told."""
    num_replicas: int
    """That there are, or that are being started."""
    num_held: float
    """Sequences that wait at gateways."""
    start_s: float
    """How long a replica takes from being wanted until it serves."""


def demand(fleet: Fleet, max_num_seqs: int, targets: EngineScalingSection) -> float:
    """In replicas; without that of waits."""
    replicas = fleet.replicas
    num_sequences = fleet.num_held + sum(each.num_sequences for each in replicas)
    found = [
        num_sequences / (max_num_seqs * targets.target_occupancy),
        sum(each.kv_usage for each in replicas) / targets.target_kv_usage,
    ]
    if speed := _prefill_speed(replicas):
        asked = sum(each.asked_tokens_per_s for each in replicas)
        found.append(asked / (speed * targets.target_prefill_share))
    if targets.target_tpot_s is not None:
        # What an idle one has taken at last says nothing of now.
        busy = [each for each in replicas if each.num_sequences > 0]
        found.append(sum(each.tpot_s for each in busy) / targets.target_tpot_s)
    return max(found)


def waits_demand(fleet: Fleet, targets: EngineScalingSection) -> float:
    """In replicas."""
    waiting = sum(each.waiting_tokens for each in fleet.replicas)
    speed = _prefill_speed(fleet.replicas)
    return waiting / (speed * targets.target_wait_s) if speed else 0.0


def _prefill_speed(replicas: Sequence[EngineSignals]) -> float:
    """The mean of those that know theirs; 0 where none does."""
    speeds = [r.prefill_tokens_per_s for r in replicas if r.prefill_tokens_per_s > 0]
    return sum(speeds) / len(speeds) if speeds else 0.0


class Lasting:
    """What a number has not been below for some time."""

    def __init__(self) -> None:
        self._lowest: deque[tuple[float, float]] = deque()
        """Points after which none was as low: the first is the lowest of all."""
        self._since_s: float | None = None

    def note(self, now_s: float, value: float, window_s: float) -> float:
        """It is this now. The least of the window; 0 until it has been watched for so long."""
        if self._since_s is None:
            self._since_s = now_s
        while self._lowest and self._lowest[-1][1] >= value:
            self._lowest.pop()
        self._lowest.append((now_s, value))
        while self._lowest[0][0] < now_s - window_s:
            self._lowest.popleft()
        return self._lowest[0][1] if now_s - self._since_s >= window_s else 0.0

    def check_invariants(self) -> None:
        """Later points are higher."""
        values = [value for _, value in self._lowest]
        assert values == sorted(set(values))


class Trend:
    """Where a number is going, by a straight line through its latest points."""

    def __init__(self) -> None:
        self._window_s = 0.0
        self._points: deque[tuple[float, float]] = deque()

    def note(self, now_s: float, value: float, window_s: float) -> None:
        """It is this now; what is older than the window is forgotten."""
        self._window_s = window_s
        self._points.append((now_s, value))
        while self._points[0][0] < now_s - window_s:
            self._points.popleft()

    def growth_per_s(self) -> float:
        """0 where it does not grow, or is not known for long enough."""
        if len(self._points) < _FEWEST_POINTS:
            return 0.0
        mean_s = sum(s for s, _ in self._points) / len(self._points)
        mean = sum(value for _, value in self._points) / len(self._points)
        spread = sum((s - mean_s) ** 2 for s, _ in self._points)
        if spread == 0:
            return 0.0
        slope = sum((s - mean_s) * (value - mean) for s, value in self._points) / spread
        return max(0.0, slope)

    def check_invariants(self) -> None:
        """Points are in the order of their times, and none is older than the window."""
        times = [s for s, _ in self._points]
        assert times == sorted(times)
        assert not times or times[-1] - times[0] <= self._window_s


class EngineScaler:
    """Of one model. Called now and then; limits and delays are Serve's."""

    def __init__(self, max_num_seqs: int, targets: EngineScalingSection) -> None:
        self._max_num_seqs = max_num_seqs
        self._targets = targets
        self._trend = Trend()
        self._waits = Lasting()

    def wanted(self, now_s: float, fleet: Fleet) -> int:
        """0 where there is nothing to do."""
        found = demand(fleet, self._max_num_seqs, self._targets)
        waits = waits_demand(fleet, self._targets)
        found = max(found, self._waits.note(now_s, waits, fleet.start_s))
        self._trend.note(now_s, found, max(_TREND_S, _TREND_STARTS * fleet.start_s))
        if not fleet.num_held and not any(each.num_sequences for each in fleet.replicas):
            # What was asked of late says nothing of now.
            return 0
        expected = found
        if self._targets.look_ahead:
            growth = self._trend.growth_per_s() * fleet.start_s
            expected = min(found + growth, _MAX_GROWTH * found)
        # What differs by less is alike.
        needed = max(1, math.ceil(expected - 1e-9))
        if needed >= fleet.num_replicas:
            return needed
        with_slack = max(1, math.ceil(expected / KEEP_SHARE - 1e-9))
        return min(fleet.num_replicas, with_slack)

    def check_invariants(self) -> None:
        """See `Trend` and `Lasting`."""
        self._trend.check_invariants()
        self._waits.check_invariants()
