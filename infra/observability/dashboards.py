"""Grafana dashboards as code: panels in rows, each a question that somebody asks.

`python -m infra.observability.dashboards DIR` writes them as JSON, for Grafana's provisioning
or its import; `coterie manifests` puts them into a ConfigMap. They ask a data source and a
model of whoever looks.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT = 24, 8
_MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Series:
    """One expression of a panel, and what its lines are called."""

    expression: str
    legend: str = "{{model}}"


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    series: tuple[Series, ...]
    unit: str = "short"
    """Grafana's: `s`, `percentunit`, `bytes`, `reqps`, ..."""
    description: str = ""


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels, each row with a title."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    def as_json(self) -> dict[str, Any]:
        """As Grafana 10 and later takes it."""
        panels: list[dict[str, Any]] = []
        top = 0
        for title, row in self.rows:
            place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
            panels.append({"type": "row", "title": title, "gridPos": place, "panels": []})
            top += 1
            width = _WIDTH // len(row)
            for number, panel in enumerate(row):
                place = {"x": number * width, "y": top, "w": width, "h": _HEIGHT}
                panels.append(_panel(panel, place))
            top += _HEIGHT
        for number, each in enumerate(panels):
            each["id"] = number + 1
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["coterie"],
            "schemaVersion": 39,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": _variables()},
            "panels": panels,
        }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": series.expression,
                "legendFormat": series.legend,
            }
            for number, series in enumerate(panel.series)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${source}"}
    return [
        {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"},
        {
            "name": "model",
            "label": "Model",
            "type": "query",
            "datasource": source,
            "query": "label_values(coterie_ready_engine_replicas, model)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _rate(metric: str, by: str = "model", where: str = "") -> str:
    labels = f"{_MODEL}, {where}" if where else _MODEL
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def _quantiles(metric: str) -> tuple[Series, ...]:
    rate = _rate(f"{metric}_bucket", by="model, le")
    return tuple(
        Series(f"histogram_quantile({share}, {rate})", f"{{{{model}}}} p{round(share * 100)}")
        for share in (0.5, 0.95, 0.99)
    )


def _share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def _gauge(metric: str, how: str = "max") -> str:
    return f"{how} by (model) ({metric}{{{_MODEL}}})"


SERVING = Dashboard(
    "coterie-serving",
    "Coterie / Serving",
    (
        (
            "How clients find it",
            (
                Panel(
                    "Requests",
                    (Series(_rate("coterie_requests_total", "outcome"), "{{outcome}}"),),
                    "reqps",
                    "By how they ended.",
                ),
                Panel(
                    "Time to first token",
                    _quantiles("coterie_time_to_first_token_seconds"),
                    "s",
                ),
                Panel(
                    "Time per output token",
                    _quantiles("coterie_time_per_output_token_seconds"),
                    "s",
                ),
            ),
        ),
        (
            "What it does",
            (
                Panel(
                    "Tokens a second",
                    (
                        Series(_rate("coterie_output_tokens_total"), "{{model}} output"),
                        Series(_rate("coterie_prompt_tokens_total"), "{{model}} prompt"),
                    ),
                ),
                Panel(
                    "Prompt tokens from the cache",
                    (
                        Series(
                            _share(
                                _rate("coterie_cached_prompt_tokens_total"),
                                _rate("coterie_prompt_tokens_total"),
                            )
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Requests under way",
                    (
                        Series(_gauge("coterie_open_requests", "sum"), "{{model}} open"),
                        Series(_gauge("coterie_held_requests", "sum"), "{{model}} held"),
                    ),
                ),
            ),
        ),
        (
            "What goes wrong",
            (
                Panel(
                    "Errors",
                    (Series(_rate("coterie_errors_total", "kind"), "{{kind}}"),),
                    "reqps",
                ),
                Panel(
                    "Engine replicas that are ready",
                    (
                        Series(_gauge("coterie_ready_engine_replicas"), "{{model}}"),
                        Series(
                            _gauge("coterie_ready_engine_replicas", "min"),
                            "{{model}}, by the gateway that has the fewest",
                        ),
                    ),
                ),
                Panel(
                    "Streams that lost their engine",
                    (Series(_rate("coterie_resumes_total", "outcome"), "{{outcome}}"),),
                    "reqps",
                    "restart, continue, replay: they went on.",
                ),
            ),
        ),
        (
            "Who waits, and for what",
            (
                Panel("Wait for a place", _quantiles("coterie_request_queue_seconds"), "s"),
                Panel(
                    "Requests by tenant",
                    (Series(_rate("coterie_requests_total", "tenant"), "{{tenant}}"),),
                    "reqps",
                ),
                Panel(
                    "Pause of resumed streams", _quantiles("coterie_resume_pause_seconds"), "s"
                ),
            ),
        ),
    ),
)

TIERS = Dashboard(
    "coterie-tiers",
    "Coterie / Caches, experts, drafts",
    (
        (
            "Prefix index",
            (
                Panel(
                    "Follows its store",
                    (Series(_gauge("coterie_prefix_index_current", "min")),),
                    description="1: the copy of every gateway does.",
                ),
                Panel("Behind by", (Series(_gauge("coterie_prefix_index_lag_seconds")),), "s"),
                Panel(
                    "Expected to be cached, and was not",
                    (
                        Series(
                            _share(
                                _rate(
                                    "coterie_misjudged_cached_prompt_tokens_total",
                                    where='error="missed"',
                                ),
                                _rate("coterie_expected_cached_prompt_tokens_total"),
                            )
                        ),
                    ),
                    "percentunit",
                ),
                Panel("Memory", (Series(_gauge("coterie_prefix_index_bytes")),), "bytes"),
            ),
        ),
        (
            "Expert hosts",
            (
                Panel("Hosts", (Series(_gauge("coterie_expert_hosts")),)),
                Panel("Busy", (Series(_gauge("coterie_expert_busy_ratio")),), "percentunit"),
                Panel("Wait", (Series(_gauge("coterie_expert_wait_seconds")),), "s"),
                Panel("Experts without a copy", (Series(_gauge("coterie_expert_missing")),)),
            ),
        ),
        (
            "Drafts",
            (
                Panel(
                    "Accepted",
                    (
                        Series(
                            _share(
                                "max by (model) (rate(coterie_draft_accepted_tokens_total"
                                f"{{{_MODEL}}}[$__rate_interval]))",
                                "max by (model) (rate(coterie_draft_tokens_total"
                                f"{{{_MODEL}}}[$__rate_interval]))",
                            )
                        ),
                    ),
                    "percentunit",
                    "Of the tokens of drafts.",
                ),
                Panel(
                    "Tokens of a draft",
                    (
                        Series(
                            _share(
                                "max by (model) (rate(coterie_draft_tokens_total"
                                f"{{{_MODEL}}}[$__rate_interval]))",
                                "max by (model) (rate(coterie_drafts_total"
                                f"{{{_MODEL}}}[$__rate_interval]))",
                            )
                        ),
                    ),
                ),
            ),
        ),
    ),
)

DASHBOARDS = (SERVING, TIERS)


def texts() -> dict[str, str]:
    """JSON by the name of its file."""
    return {
        f"{each.uid}.json": json.dumps(each.as_json(), indent=1) + "\n" for each in DASHBOARDS
    }


def main() -> None:
    """See the module."""
    [_, folder] = sys.argv
    for name, text in texts().items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
