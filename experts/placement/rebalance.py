"""When to rebalance. Pure: what is known comes in, a decision or none goes out.

| reason      | when                                                                |
|-------------|---------------------------------------------------------------------|
| uncovered   | some expert has no copy: at once                                    |
| hosts       | a host has joined, left or died: at once                            |
| drain       | a leaving host still has copies: at once                            |
| copies      | some expert has fewer than `min_copies`, and could have: at once    |
| imbalance   | `min_interval_s` after the last one, if the gain is over `min_gain` |

    gain = (slowest - slowest once all is moved) / mean host time

with the mean as it is: work that is moved to slower hosts must not look like balance.
A gain is measured on loads that chance has a part in. Where that makes the host times
wrong by a share d, what is predicted to help by 2 d or more does help; so with `min_gain`
above that each rebalance makes things truly better, and they come to an end while the
load keeps its mean.

Worked example: `min_gain` 0.1; a layer's hosts take 14, 10, 6 ms of each second, and a plan
would make it 10.5, 10, 9.5: a gain of 3.5 / 10 = 0.35, so it is done. From then on even
a perfect plan gains no more than 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experts.placement.cost import host_times, mean_time, slowest_time
from experts.placement.hosts import HostSpec, possible_copies
from experts.placement.layout import with_hosts
from experts.placement.load import Load
from experts.placement.migration import Wave, migrate
from experts.placement.plan import plan
from experts.settings import RebalanceSection
from experts.types import EMPTY_SLOT, ExpertMap

Reason = Literal["uncovered", "hosts", "drain", "copies", "imbalance"]


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do: put `start` in force, then run the waves, one after the other."""

    reason: Reason
    start: ExpertMap
    waves: tuple[Wave, ...]
    gain: float
    """Predicted fall of slowest over mean host time; below 0 where a host leaves."""

    @property
    def target(self) -> ExpertMap:
        """The map at the end."""
        return self.waves[-1].after if self.waves else self.start


def decide(
    now_s: float,
    last_s: float | None,
    load: Load,
    hosts: Sequence[HostSpec],
    current: ExpertMap,
    settings: RebalanceSection,
) -> Decision | None:
    """What to do now; None: nothing. Not to be asked while waves run: when a host dies
    meanwhile, leave the rest of them and ask anew, with the map that is in force.

    `last_s`: when the last rebalance ended; `hosts`: all that live, in any order. Raises
    ConfigError where they have too few slots.
    """
    places = {host: place for place, host in enumerate(current.hosts)}
    hosts = sorted(hosts, key=lambda spec: places.get(spec.host, len(places)))
    start = with_hosts(current, hosts)
    reason = _reason_to_hurry(start, current, hosts, settings.min_copies)
    if reason is None and last_s is not None and now_s - last_s < settings.min_interval_s:
        return None
    target = plan(load, hosts, start, settings)
    waves = migrate(start, target, _weights(load, hosts), settings.max_moves_per_host)
    gain = _gain(start, waves[-1].after if waves else start, load, hosts, settings)
    if reason is None:
        is_worth_it = gain > settings.min_gain
        return Decision("imbalance", start, waves, gain) if is_worth_it else None
    has_news = waves or start is not current
    return Decision(reason, start, waves, gain) if has_news else None


def _reason_to_hurry(
    start: ExpertMap, current: ExpertMap, hosts: Sequence[HostSpec], min_copies: int
) -> Reason | None:
    is_leaving = np.array([spec.is_leaving for spec in hosts])
    held = start.physical_to_logical
    if not start.is_covering:
        return "uncovered"
    if start is not current:
        return "hosts"
    if (held[:, is_leaving[start.slot_to_host]] != EMPTY_SLOT).any():
        return "drain"
    sizes = [spec.num_usable_slots for spec in hosts]
    possible = possible_copies(sizes, start.num_experts, min_copies)
    return "copies" if (_num_hosts_of(start) < possible).any() else None


def _num_hosts_of(expert_map: ExpertMap) -> NDArray[np.intp]:
    """How many hosts have each expert. Shape: [num_layers, num_experts]."""
    shape = (expert_map.num_layers, len(expert_map.hosts), expert_map.num_experts)
    has = np.zeros(shape, np.bool_)
    held = expert_map.physical_to_logical
    layers, slots = np.nonzero(held != EMPTY_SLOT)
    has[layers, expert_map.slot_to_host[slots], held[layers, slots]] = True
    num_hosts: NDArray[np.intp] = has.sum(axis=1)
    return num_hosts


def _gain(
    start: ExpertMap,
    target: ExpertMap,
    load: Load,
    hosts: Sequence[HostSpec],
    settings: RebalanceSection,
) -> float:
    before, after = (host_times(m, load, hosts, settings.split_tokens) for m in (start, target))
    mean = mean_time(before)
    return (slowest_time(before) - slowest_time(after)) / mean if mean > 0 else 0.0


def _weights(load: Load, hosts: Sequence[HostSpec]) -> NDArray[np.float64]:
    """What one copy of each expert would cost. Shape: [num_layers, num_experts]."""
    activation_s = float(np.mean([spec.activation_s for spec in hosts]))
    token_s = float(np.mean([spec.token_s for spec in hosts]))
    return load.activations_per_s * activation_s + load.tokens_per_s * token_s
