"""The picture of a load: how its times lie, and how they went over time.

matplotlib is an extra; it is imported when a picture is drawn.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coterie.benchmark.types import Sample
from coterie.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def check_can_plot(path: Path) -> None:
    """Raise ConfigError where no picture could be drawn: to be called before the load
    is run, which may take an hour."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a plot is a file of {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'coterie[plot]'")


def draw(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Write the picture of the requests that succeeded."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    done = [sample for sample in samples if sample.failure is None]
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _shares(axes[0, 0], "time to first token, ms", (s.ttft_s for s in done))
    _shares(axes[0, 1], "time per output token, ms", (s.tpot_s for s in done))
    _shares(axes[1, 0], "whole request, ms", (s.e2e_s for s in done))
    _course(axes[1, 1], samples)
    figure.savefig(path)


def _shares(axes: "Axes", label: str, values_s: Iterable[float | None]) -> None:
    """The share of requests that took at most so long."""
    ordered_ms = sorted(value * 1000 for value in values_s if value is not None)
    axes.set_xlabel(label)
    axes.set_ylabel("share of requests")
    axes.grid(alpha=0.3)
    axes.set_ylim(0, 1)
    if ordered_ms:
        axes.ecdf(ordered_ms)


def _course(axes: "Axes", samples: Sequence[Sample]) -> None:
    """First tokens by the time of sending; failures as crosses on the axis."""
    first = [(s.sent_s, s.ttft_s) for s in samples if not s.failure and s.ttft_s is not None]
    axes.scatter([sent for sent, _ in first], [ttft * 1000 for _, ttft in first], s=8)
    failed = [s.sent_s for s in samples if s.failure]
    if failed:
        axes.scatter(failed, [0.0] * len(failed), marker="x", color="tab:red", label="failed")
        axes.legend()
    axes.set_xlabel("sent after, s")
    axes.set_ylabel("time to first token, ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
