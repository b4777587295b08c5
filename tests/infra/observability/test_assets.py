"""Alerts and dashboards ask for metrics that there are, and Prometheus understands them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.gateway.telemetry.metrics import GatewayMetrics
from infra.observability.dashboards import DASHBOARDS
from tests.source_code import REPOSITORY

ASSETS = REPOSITORY / "infra" / "observability"
METRIC = re.compile(r"\bcoterie_[a-z_]+")
SELECTOR = re.compile(r"\b(coterie_[a-z_]+)\{([^}]*)\}")
SUFFIXES = ("_bucket", "_sum", "_count")


def described() -> dict[str, tuple[str, ...]]:
    """Metrics and their labels."""
    metrics = GatewayMetrics(1)
    metrics.add_states(list, dict)
    metrics.add_losses(lambda: 0)
    metrics.add_routing({})
    metrics.add_indexes({})
    metrics.add_experts(dict)
    metrics.add_drafts({})
    return metrics.described()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ASSETS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    for dashboard in DASHBOARDS:
        for _, row in dashboard.rows:
            for panel in row:
                for number, series in enumerate(panel.series):
                    found[f"{dashboard.uid}, {panel.title}, {number}"] = series.expression
    return found


def metric_of(name: str, known: dict[str, tuple[str, ...]]) -> str:
    stems = [name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)]
    return next((stem for stem in stems if stem in known), name)


@pytest.mark.parametrize("place", expressions())
def test_every_metric_and_label_that_is_asked_for_is_there(place: str) -> None:
    known, expression = described(), expressions()[place]
    names = {metric_of(name, known) for name in METRIC.findall(expression)}
    assert names
    assert names <= set(known)
    for name, selector in SELECTOR.findall(expression):
        asked = {part.split("=")[0].strip() for part in selector.split(",")}
        assert asked <= {*known[metric_of(name, known)], "replica"}, expression
    for grouping in re.findall(r"by \(([^)]*)\)", expression):
        labels = {label.strip() for label in grouping.split(",")}
        everywhere = {label for name in names for label in known[name]}
        assert labels <= everywhere | {"le"}, expression


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    text = (REPOSITORY / "OPERATIONS.md").read_text()
    pages = re.findall(r"^### (Coterie\w+)$", text, re.MULTILINE)
    assert pages == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"OPERATIONS.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_seen_to_come() -> None:
    tests = yaml.safe_load((ASSETS / "alerts_test.yaml").read_text())["tests"]
    tried = [each for test in tests for each in test["alert_rule_test"]]
    came = {each["alertname"] for each in tried if each.get("exp_alerts")}
    assert came == {rule["alert"] for rule in rules()}


def promtool(*args: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: install Prometheus (Debian's package `prometheus` has it)")
    command = [found, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_come_when_they_should() -> None:
    promtool("check", "rules", str(ASSETS / "alerts.yaml"))
    promtool("test", "rules", str(ASSETS / "alerts_test.yaml"))


def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    recorded = [
        {
            "record": f"panel:{number}",
            "expr": text.replace("$__rate_interval", "5m").replace("$model", ".*"),
        }
        for number, text in enumerate(expressions().values())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", str(file))


def test_a_dashboard_has_its_panels_side_by_side() -> None:
    for dashboard in DASHBOARDS:
        panels = dashboard.as_json()["panels"]
        assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
        places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]
        assert all(x + w <= 24 for x, _, w, _ in places)
        for a in places:
            for b in places:
                apart_x = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
                apart_y = a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
                assert a is b or apart_x or apart_y
