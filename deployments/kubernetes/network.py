"""Who may speak to whom.

| to            | port                | from                                        |
|---------------|---------------------|---------------------------------------------|
| Ray's pods    | any                 | Ray's pods                                  |
| gateways      | both doors          | anybody: keys and TLS are asked for there   |
| head          | dashboard's, Serve's| KubeRay's operator                          |
| Ray's pods    | metrics             | Prometheus                                  |
| Valkey        | 6379                | Ray's pods; the head's store the head alone |

Out of the pods go DNS, Ray's pods, Valkey, traces to their collector, and from the head
(Ray's autoscaler) the Kubernetes API.
"""

from urllib.parse import urlsplit

from deployments.kubernetes.groups import HEAD, PodGroup
from deployments.kubernetes.objects import (
    COMPONENT,
    HEAD_STORE,
    INDEX_STORE,
    Manifest,
    manifest,
    ray_labels,
    store_labels,
)
from deployments.kubernetes.pods import (
    AUTOSCALER_METRICS_PORT,
    DASHBOARD_METRICS_PORT,
    DASHBOARD_PORT,
    RAY_METRICS_PORT,
    PodPlan,
)
from deployments.kubernetes.stores import VALKEY_PORT

_OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
_PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
_OTLP_PORTS = {"http": 4318, "grpc": 4317}
_HTTPS_PORTS = (443, 6443)


def network_policies(plan: PodPlan, gateways: PodGroup) -> list[Manifest]:
    """All of them; what none allows is denied."""
    name = plan.kubernetes.name
    made = [
        _policy(plan, "ray", ray_labels(name), _into_ray(plan), _out_of_ray(plan)),
        _policy(plan, "gateway", ray_labels(name, gateways.name), [_into_gateways(plan)]),
        _policy(plan, HEAD, ray_labels(name, HEAD), [_into_head(plan)], [_to_api()]),
        _policy(
            plan,
            INDEX_STORE,
            store_labels(name, INDEX_STORE),
            [_from(ray_labels(name), VALKEY_PORT)],
            [],
        ),
    ]
    if plan.kubernetes.head_store is not None:
        head = ray_labels(name, HEAD)
        # The operator's Job that clears the store when the service is deleted has the
        # head's labels.
        rules = [_from(head, VALKEY_PORT)]
        made.append(_policy(plan, HEAD_STORE, store_labels(name, HEAD_STORE), rules, []))
    return made


def _policy(
    plan: PodPlan,
    name: str,
    pods: dict[str, str],
    into: list[Manifest],
    out: list[Manifest] | None = None,
) -> Manifest:
    """`out` None: it says nothing about what goes out."""
    spec: Manifest = {
        "podSelector": {"matchLabels": pods},
        "policyTypes": ["Ingress"] if out is None else ["Ingress", "Egress"],
        "ingress": into,
    }
    if out is not None:
        spec["egress"] = out
    service = plan.kubernetes.name
    return manifest("networking.k8s.io/v1", "NetworkPolicy", f"{service}-{name}", service, spec)


def _into_ray(plan: PodPlan) -> list[Manifest]:
    ports = [RAY_METRICS_PORT, AUTOSCALER_METRICS_PORT, DASHBOARD_METRICS_PORT]
    if plan.gateway_metrics_port is not None:
        ports.append(plan.gateway_metrics_port)
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": _PROMETHEUS}}
    return [
        {"from": [{"podSelector": {"matchLabels": ray_labels(plan.kubernetes.name)}}]},
        {"from": [prometheus], "ports": _ports(ports)},
    ]


def _out_of_ray(plan: PodPlan) -> list[Manifest]:
    name = plan.kubernetes.name
    stores = {
        "matchLabels": {"app.kubernetes.io/part-of": name},
        "matchExpressions": [
            {"key": COMPONENT, "operator": "In", "values": [INDEX_STORE, HEAD_STORE]}
        ],
    }
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    rules: list[Manifest] = [
        {"to": [{"podSelector": {"matchLabels": ray_labels(name)}}]},
        {"to": [{"podSelector": stores}], "ports": _ports([VALKEY_PORT])},
        {"to": [{"namespaceSelector": {}}], "ports": dns},
    ]
    elsewhere = [*_otlp_ports(plan), *_index_ports(plan)]
    if elsewhere:
        rules.append({"to": _anywhere(), "ports": _ports(elsewhere)})
    return rules


def _otlp_ports(plan: PodPlan) -> list[int]:
    endpoint = plan.telemetry.otlp_endpoint
    if endpoint is None:
        return []
    return [urlsplit(endpoint).port or _OTLP_PORTS[plan.telemetry.otlp_protocol or "grpc"]]


def _index_ports(plan: PodPlan) -> list[int]:
    """Of a server that is not one of these manifests."""
    url = plan.index_url
    return [] if url is None else [urlsplit(url).port or VALKEY_PORT]


def _anywhere() -> list[Manifest]:
    """But for the address at which clouds tell pods their secrets."""
    return [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}]


def _into_gateways(plan: PodPlan) -> Manifest:
    return {"ports": _ports([plan.gateway.grpc_port, plan.gateway.http_port])}


def _into_head(plan: PodPlan) -> Manifest:
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": _OPERATOR}}
    return {"from": [operator], "ports": _ports([DASHBOARD_PORT, plan.gateway.http_port])}


def _to_api() -> Manifest:
    return {"to": _anywhere(), "ports": _ports(list(_HTTPS_PORTS))}


def _from(pods: dict[str, str], port: int) -> Manifest:
    return {"from": [{"podSelector": {"matchLabels": pods}}], "ports": _ports([port])}


def _ports(numbers: list[int]) -> list[Manifest]:
    return [{"protocol": "TCP", "port": number} for number in dict.fromkeys(numbers)]
