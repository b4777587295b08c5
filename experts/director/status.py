"""What a director says when it is asked: a view as JSON types."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experts.director.types import DirectorView, Rebalance
from experts.host_report import HostReport
from experts.types import EMPTY_SLOT


def status_of(view: DirectorView, now_s: float) -> dict[str, Any]:
    """Shapes: `num_copies`, `tokens_per_s` and `activations_per_s` [num_layers, num_experts].

    `now_s` by the clock that the director was given.
    """
    expert_map, load = view.map, view.load
    return {
        "state": view.state,
        "message": view.message,
        "hosts": [_host(report) for report in view.reports],
        "num_layers": expert_map.num_layers,
        "num_experts": expert_map.num_experts,
        "num_slots": expert_map.num_slots,
        "is_covering": expert_map.is_covering,
        "num_copies": expert_map.num_copies.tolist(),
        "tokens_per_s": load.tokens_per_s.round(3).tolist(),
        "activations_per_s": load.activations_per_s.round(3).tolist(),
        "last_rebalance": _last(view.last, now_s),
    }


def _host(report: HostReport) -> dict[str, Any]:
    held = report.table.held
    return {
        "host": report.host,
        "num_slots": held.shape[1],
        "num_copies": int((held != EMPTY_SLOT).sum()),
        "busy_share": round(report.busy_share, 4),
        "queue_s": round(report.queue_s, 6),
        "num_engines": report.num_engines,
        "num_requests": report.num_requests,
        "is_leaving": report.is_leaving,
    }


def _last(last: Rebalance | None, now_s: float) -> Mapping[str, Any] | None:
    if last is None:
        return None
    fields = asdict(last)
    begun_s, ended_s = fields.pop("begun_s"), fields.pop("ended_s")
    fields["begun_ago_s"] = round(now_s - begun_s, 1)
    fields["took_s"] = None if ended_s is None else round(ended_s - begun_s, 3)
    return fields
