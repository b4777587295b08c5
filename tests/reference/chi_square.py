"""Whether two samples are of one distribution: Pearson's chi-square, and what is likely."""

import math
from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple, TypeVar

_Cell = TypeVar("_Cell", bound=Hashable)


class ChiSquare(NamedTuple):
    """Of two samples of the same size."""

    statistic: float
    freedom: int
    """Degrees of freedom: cells, less one."""

    @property
    def likelihood(self) -> float:
        """Of a statistic as high or higher, if both are of one distribution.

        As Wilson and Hilferty have it (1931): the cube root of a chi-square is nearly normal.
        """
        if self.freedom == 0:
            return 1.0
        spread = 2 / (9 * self.freedom)
        z = ((self.statistic / self.freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
        return 0.5 * math.erfc(z / math.sqrt(2))


def chi_square(first: Counter[_Cell], second: Counter[_Cell], fewest: int = 1) -> ChiSquare:
    """Cells of fewer than `fewest`, in both samples together, are counted as one.

    Raises `ValueError` for samples of different sizes.
    """
    if first.total() != second.total():
        raise ValueError(
            f"{first.total()} and {second.total()} were drawn, not as many of each"
        )
    cells = [(first[cell], second[cell]) for cell in first.keys() | second.keys()]
    large = [cell for cell in cells if sum(cell) >= fewest]
    small = [cell for cell in cells if sum(cell) < fewest]
    if small:
        large.append((sum(a for a, _ in small), sum(b for _, b in small)))
    return ChiSquare(sum((a - b) ** 2 / (a + b) for a, b in large), len(large) - 1)
