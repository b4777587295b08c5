"""What keeps pods where they are, and who looks at them: disruption budgets, monitors, alerts,
dashboards.
"""

from importlib.resources import files

import yaml

from deployments.kubernetes.groups import HEAD, PodGroup
from deployments.kubernetes.objects import Manifest, manifest, ray_labels
from deployments.kubernetes.pods import GATEWAY_METRICS, METRICS, PodPlan
from infra.observability import dashboards

_SCRAPE = {"interval": "15s"}


def disruption_budgets(plan: PodPlan, groups: list[PodGroup]) -> list[Manifest]:
    """Whoever empties nodes takes one pod of a group at a time, and waits until it is
    replaced. The head has none: it goes on where it was, and while it restarts, requests are
    answered without it."""
    name = plan.kubernetes.name
    return [
        manifest(
            "policy/v1",
            "PodDisruptionBudget",
            f"{name}-{group.name}",
            name,
            {
                "maxUnavailable": 1,
                "selector": {"matchLabels": ray_labels(name, group.name)},
            },
        )
        for group in groups
    ]


def monitors(plan: PodPlan, gateways: PodGroup) -> list[Manifest]:
    """What Ray tells of each pod, and what gateways tell of requests."""
    if not plan.kubernetes.monitors:
        return []
    name = plan.kubernetes.name
    made = [
        _monitor(plan, HEAD, ray_labels(name, HEAD), [METRICS, "as-metrics"]),
        _monitor(plan, "workers", ray_labels(name), [METRICS]),
    ]
    if plan.telemetry.metrics:
        port = GATEWAY_METRICS if plan.telemetry.metrics_port is not None else "http"
        made.append(_monitor(plan, "gateway", ray_labels(name, gateways.name), [port]))
    return made


def _monitor(plan: PodPlan, part: str, pods: dict[str, str], ports: list[str]) -> Manifest:
    service = plan.kubernetes.name
    has_tls = "http" in ports and plan.gateway.tls is not None
    # By the pod's address, which no certificate has.
    tls = {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}} if has_tls else {}
    spec: Manifest = {
        "selector": {"matchLabels": pods},
        "podMetricsEndpoints": [{"port": port} | _SCRAPE | tls for port in ports],
    }
    if part == "workers":
        spec["selector"]["matchExpressions"] = [
            {"key": "ray.io/node-type", "operator": "In", "values": ["worker"]}
        ]
    name = f"{service}-{part}"
    made = manifest("monitoring.coreos.com/v1", "PodMonitor", name, service, spec)
    made["metadata"]["labels"] |= plan.kubernetes.monitor_labels
    return made


def alerts(plan: PodPlan) -> list[Manifest]:
    """Rules for Prometheus, where it is told of gateways."""
    if not (plan.kubernetes.monitors and plan.telemetry.metrics):
        return []
    name = plan.kubernetes.name
    rules = yaml.safe_load(files("infra.observability").joinpath("alerts.yaml").read_text())
    made = manifest("monitoring.coreos.com/v1", "PrometheusRule", name, name, rules)
    made["metadata"]["labels"] |= plan.kubernetes.monitor_labels
    return [made]


def dashboard_maps(plan: PodPlan) -> list[Manifest]:
    """As Grafana's sidecar finds them, by their label."""
    if not (plan.kubernetes.monitors and plan.telemetry.metrics):
        return []
    name = plan.kubernetes.name
    made = manifest("v1", "ConfigMap", f"{name}-dashboards", name)
    made["metadata"]["labels"]["grafana_dashboard"] = "1"
    return [made | {"data": dashboards.texts()}]
