"""Recursive least squares of what a host takes, for the few numbers that describe it.

A host takes  fixed + num_experts * per_expert + num_pairs * per_pair  seconds. What is
fitted is the *scale* of each of the three costs: its ratio to the prior, not below 0.
With g = (fixed, num_experts * per_expert, num_pairs * per_pair) of the prior, all divided
by s, the greater of the seconds observed and predicted:

    information = memory * information + g g'
    moment      = memory * moment + g * seconds / s

and the scales are those that minimise  scales' information scales - 2 moment' scales.
To this a little is added of the square of their change, so that costs which
the observations do not tell apart stay as they are. (Recursive least squares with
exponential forgetting: Ljung, "System Identification", 1999, section 11.2.)

Errors are relative, so long calls do not outweigh short ones; and by the greater of both,
so an observation too long by a factor of x counts about 1/x as much as others: a host
that was preempted for once moves its costs by next to nothing. One that is twice as slow or
quick as predicted `NUM_FOR_CHANGE` times in succession has changed, and begins anew: by
the median ratio of the first `NUM_FIRST` observations to what was predicted, for all three.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from infra.compiled import compiled, inlined

NUM_FIRST = 5
NUM_FOR_CHANGE = 16

_PRIOR_WEIGHT = 1.0
"""What the median of the first observations counts as, in observations."""

_LEAST_AT_FIRST = 1e-3
"""Of the greatest scale: one that was 0 may no longer be."""

_STAY_WEIGHT = 1e-4
"""How much scales stay as they are, of the mean information."""

FIT = types.Tuple(
    (
        *(types.float64[:, ::1], types.float64[:, ::1]),
        types.float64[:, :, ::1],
        *(types.float64[:, ::1], types.float64[:, ::1]),
        *(types.int64[::1], types.int64[::1]),
    )
)
"""The fields of `Fit`."""

Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """What is known of some hosts. Changed by `observe`, each host by itself."""

    costs: Floats  # [num_hosts, 3], in seconds: the scales times the prior
    scales: Floats  # [num_hosts, 3]
    information: Floats  # [num_hosts, 3, 3]
    moment: Floats  # [num_hosts, 3]
    first_ratios: Floats  # [num_hosts, NUM_FIRST]
    num_seen: NDArray[np.int64]  # [num_hosts], since it began anew
    streak: NDArray[np.int64]  # [num_hosts]; below 0: of observations quicker than predicted

    @classmethod
    def of(cls, num_hosts: int, prior: Floats) -> "Fit":
        """Hosts that take what the prior says. Shape: [3]."""
        return cls(
            np.tile(prior, (num_hosts, 1)),
            np.ones((num_hosts, 3)),
            np.zeros((num_hosts, 3, 3)),
            np.zeros((num_hosts, 3)),
            np.zeros((num_hosts, NUM_FIRST)),
            np.zeros(num_hosts, np.int64),
            np.zeros(num_hosts, np.int64),
        )


@inlined
def _determinant(a: Floats) -> float:
    determinant: float = (
        a[0, 0] * (a[1, 1] * a[2, 2] - a[1, 2] * a[2, 1])
        - a[0, 1] * (a[1, 0] * a[2, 2] - a[1, 2] * a[2, 0])
        + a[0, 2] * (a[1, 0] * a[2, 1] - a[1, 1] * a[2, 0])
    )
    return determinant


@inlined
def _solve_for(mask: int, a: Floats, b: Floats, work: Floats, found: Floats) -> bool:
    """Minimise over the scales in the mask, the others 0; False where one falls below."""
    whole = np.eye(3)
    for i in range(3):
        for j in range(3):
            if mask >> i & 1 and mask >> j & 1:
                whole[i, j] = a[i, j]
    determinant = _determinant(whole)
    for column in range(3):
        work[:, :] = whole
        for i in range(3):
            work[i, column] = b[i] if mask >> i & 1 else 0.0
        found[column] = _determinant(work) / determinant
        if found[column] < 0:
            return False
    return True


@compiled(types.void(types.float64[:, ::1], types.float64[::1], types.float64[::1]))
def minimise(a: Floats, b: Floats, scales: Floats) -> None:
    """Of all `scales` >= 0 those with the least  scales' a scales - 2 b' scales.

    `a` must be positive definite. The minimum is that over some of the three without the
    bound, the others being 0: all eight ways are tried. Shapes: [3, 3], [3], [3].
    """
    work, found = np.empty((3, 3)), np.empty(3)
    scales[:] = 0.0
    best = 0.0
    for mask in range(7, 0, -1):
        if _solve_for(mask, a, b, work, found):
            gain = found[0] * b[0] + found[1] * b[1] + found[2] * b[2]
            if gain > best:
                best = gain
                scales[:] = found
            if mask == 7:
                return


@inlined
def _begin(host: int, ratio: float, fit: Fit) -> None:
    """One of the first observations; by the last of them, all three costs."""
    fit.first_ratios[host, fit.num_seen[host]] = ratio
    fit.num_seen[host] += 1
    if fit.num_seen[host] < NUM_FIRST:
        return
    fit.scales[host] *= np.sort(fit.first_ratios[host])[NUM_FIRST // 2]
    least = _LEAST_AT_FIRST * fit.scales[host].max()
    fit.information[host] = 0.0
    for i in range(3):
        fit.scales[host, i] = max(fit.scales[host, i], least)
        fit.information[host, i, i] = _PRIOR_WEIGHT / fit.scales[host, i] ** 2
        fit.moment[host, i] = _PRIOR_WEIGHT / fit.scales[host, i]


@inlined
def _learn(host: int, parts_s: Floats, seconds: float, memory: float, fit: Fit) -> None:
    """One observation more."""
    scales, moment = fit.scales[host], fit.moment[host]
    information = fit.information[host]
    longer_s = max(seconds, (parts_s * scales).sum())
    for i in range(3):
        moment[i] = memory * moment[i] + parts_s[i] / longer_s * (seconds / longer_s)
        for j in range(3):
            new = parts_s[i] / longer_s * (parts_s[j] / longer_s)
            information[i, j] = memory * information[i, j] + new
    stay = _STAY_WEIGHT * (information[0, 0] + information[1, 1] + information[2, 2]) / 3
    a, b = information.copy(), moment.copy()
    for i in range(3):
        a[i, i] += stay
        b[i] += stay * scales[i]
    minimise(a, b, scales)


@inlined
def _note_change(host: int, ratio: float, fit: Fit) -> None:
    """Begin anew after many observations that are all much slower, or all quicker."""
    if ratio > 2:
        fit.streak[host] = max(fit.streak[host], 0) + 1
    elif ratio < 0.5:
        fit.streak[host] = min(fit.streak[host], 0) - 1
    else:
        fit.streak[host] = 0
    if abs(fit.streak[host]) >= NUM_FOR_CHANGE:
        fit.num_seen[host] = 0
        fit.streak[host] = 0


@compiled(
    types.void(
        FIT,
        types.float64[::1],
        types.UniTuple(types.int64, 3),
        *(types.float64, types.float64),
    )
)
def observe(
    arrays: tuple[NDArray[Any], ...],
    prior: Floats,
    what: tuple[int, int, int],
    seconds: float,
    memory: float,
) -> None:
    """A host took so long for a call: `what` are its number, experts and pairs.

    `memory` is what an observation weighs when the next one comes. Shape: [3].
    """
    host, num_experts, num_pairs = what
    parts_s = prior.copy()
    parts_s[1] *= num_experts
    parts_s[2] *= num_pairs
    costs, scales, information, moment, first_ratios, num_seen, streak = arrays
    fit = Fit(costs, scales, information, moment, first_ratios, num_seen, streak)
    ratio = seconds / (parts_s * scales[host]).sum()
    if num_seen[host] < NUM_FIRST:
        _begin(host, ratio, fit)
    else:
        _learn(host, parts_s, seconds, memory, fit)
        num_seen[host] += 1
        _note_change(host, ratio, fit)
    for i in range(3):
        costs[host, i] = scales[host, i] * prior[i]
