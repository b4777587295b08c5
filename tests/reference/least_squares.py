"""The least quadratic form over numbers not below 0, coordinate by coordinate: the slow
twin of `router.dispatch.cost_fit.minimise`."""

from collections.abc import Sequence


def minimise(
    a: Sequence[Sequence[float]], b: Sequence[float], num_rounds: int = 5000
) -> list[float]:
    """The x >= 0 with the least  x' a x - 2 b' x; `a` positive definite."""
    x = [0.0] * len(b)
    for _ in range(num_rounds):
        for i in range(len(b)):
            rest = sum(a[i][j] * x[j] for j in range(len(b)) if j != i)
            x[i] = max(0.0, (b[i] - rest) / a[i][i])
    return x
