"""The load of a model's experts as a map in the terminal.

One row a layer, one cell an expert; where there are more than fit, a cell stands for some
neighbours, and shows the busiest of them. Worked example: loads [[0, 4, 8]] give " ▄█", and
with no copy of the first expert "!▄█".
"""

import itertools
import math
from collections.abc import Sequence

LEVELS = " ▁▂▃▄▅▆▇█"
MISSING = "!"
MAX_ROWS, MAX_CELLS = 24, 96

Matrix = Sequence[Sequence[float]]  # [num_layers, num_experts]


def heat_rows(
    load: Matrix, num_copies: Matrix, max_rows: int = MAX_ROWS, max_cells: int = MAX_CELLS
) -> list[tuple[str, str]]:
    """Name and cells of each row, against the busiest expert of all layers."""
    peak = max((value for row in load for value in row), default=0.0)
    rows = []
    for first, end in _groups(len(load), max_rows):
        loads = [max(column) for column in zip(*load[first:end], strict=True)]
        copies = [min(column) for column in zip(*num_copies[first:end], strict=True)]
        cells = (
            MISSING if min(copies[a:b]) == 0 else _level(max(loads[a:b]), peak)
            for a, b in _groups(len(loads), max_cells)
        )
        name = str(first) if end == first + 1 else f"{first}-{end - 1}"
        rows.append((name, "".join(cells)))
    return rows


def _level(value: float, peak: float) -> str:
    """Any load at all shows."""
    return LEVELS[math.ceil(value / peak * (len(LEVELS) - 1))] if peak else LEVELS[0]


def _groups(count: int, most: int) -> list[tuple[int, int]]:
    """At most so many runs of neighbours, alike in size but for the last."""
    size = max(1, -(-count // most))
    return list(itertools.pairwise([*range(0, count, size), count]))
