"""How clients come in: the Service of the gateways, and routes to it from outside.

KubeRay makes a Service of its own for Serve's proxies, which are switched off here. This one
takes gateways of the old and of the new cluster alike, each from when it can answer until it
ends, so that an upgrade shows nothing.
"""

from deployments.kubernetes.groups import PodGroup
from deployments.kubernetes.objects import Manifest, manifest, ray_labels
from deployments.kubernetes.pods import PodPlan

_ROUTE_MARGIN_S = 30


def gateway_service(plan: PodPlan, gateways: PodGroup) -> Manifest:
    """Both doors."""
    name, has_tls = plan.kubernetes.name, plan.gateway.tls is not None
    # gRPC over TLS says by itself what it is.
    grpc = {} if has_tls else {"appProtocol": "kubernetes.io/h2c"}
    http = {"appProtocol": "https" if has_tls else "http"}
    spec: Manifest = {
        "selector": ray_labels(name, gateways.name),
        "ports": [
            {"name": "grpc", "port": plan.gateway.grpc_port, "targetPort": "grpc"} | grpc,
            {"name": "http", "port": plan.gateway.http_port, "targetPort": "http"} | http,
        ],
    }
    return manifest("v1", "Service", f"{name}-gateway", name, spec)


def headless_service(plan: PodPlan, gateways: PodGroup) -> Manifest:
    """Each gateway by its own address: a gRPC client that balances by itself keeps a
    connection to all of them, where the other Service gives it one for good."""
    name = plan.kubernetes.name
    spec: Manifest = {
        "clusterIP": "None",
        "selector": ray_labels(name, gateways.name),
        "ports": [{"name": "grpc", "port": plan.gateway.grpc_port, "targetPort": "grpc"}],
    }
    return manifest("v1", "Service", f"{name}-gateways", name, spec)


def routes(plan: PodPlan) -> list[Manifest]:
    """One for each door; two kinds of route must not share a name of host."""
    section = plan.kubernetes.route
    if section is None:
        return []
    parent: Manifest = {"name": section.gateway}
    if section.gateway_namespace is not None:
        parent["namespace"] = section.gateway_namespace
    return [
        _route(plan, "GRPCRoute", parent, section.grpc_hostnames, plan.gateway.grpc_port),
        _route(plan, "HTTPRoute", parent, section.http_hostnames, plan.gateway.http_port),
    ]


def _route(
    plan: PodPlan, kind: str, parent: Manifest, hostnames: list[str], port: int
) -> Manifest:
    name = plan.kubernetes.name
    rule: Manifest = {"backendRefs": [{"name": f"{name}-gateway", "port": port}]}
    if kind == "HTTPRoute":
        # Proxies end what takes longer than some seconds by themselves.
        request_s = int(plan.gateway.request_timeout_s) + _ROUTE_MARGIN_S
        rule["timeouts"] = {"request": f"{request_s}s"}
    spec: Manifest = {
        "parentRefs": [dict(parent)],
        "hostnames": list(hostnames),
        "rules": [rule],
    }
    door = kind.removesuffix("Route").lower()
    return manifest("gateway.networking.k8s.io/v1", kind, f"{name}-{door}", name, spec)
