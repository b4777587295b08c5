"""Templates of Ray's pods: the head, and one for each group."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from deployments.app import LINK_TOKEN_VARIABLE
from deployments.kubernetes.groups import HEAD, PodGroup
from deployments.kubernetes.objects import (
    Manifest,
    compute,
    container_security,
    pod_security,
    ray_labels,
    secret_value,
)
from deployments.kubernetes.settings import GroupSection, KubernetesSection, VolumeSection
from deployments.settings import GatewaySection
from infra.telemetry.settings import TelemetrySection

STATE_DIR = "/var/lib/coterie"
"""Where Ray's pods keep converted models and compile caches."""

GCS_PORT, DASHBOARD_PORT, CLIENT_PORT, AGENT_PORT = 6379, 8265, 10001, 52365
RAY_METRICS_PORT, AUTOSCALER_METRICS_PORT, DASHBOARD_METRICS_PORT = 8080, 44217, 44227
METRICS = "metrics"
GATEWAY_METRICS = "gw-metrics"

_DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
_END_MARGIN_S = 45
_LEAVE_MARGIN_S = 15
_VARIABLES = {
    # Ray's memory monitor would end Serve's actors first; a pod has a limit of its own.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray runs its workers, and so engines, at nice 15 otherwise.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class PodPlan:
    """What templates are made from."""

    gateway: GatewaySection
    telemetry: TelemetrySection
    kubernetes: KubernetesSection
    index_url: str | None
    """The index's server, if it is none of these manifests."""

    @property
    def gateway_metrics_port(self) -> int | None:
        """Where gateways answer `/metrics`; None where they do not."""
        if not self.telemetry.metrics:
            return None
        return self.telemetry.metrics_port or self.gateway.http_port


class _File(NamedTuple):
    """Of a Secret, in a folder."""

    path: str
    """Relative to the folder."""
    key: str
    secret: str


def head_template(plan: PodPlan) -> Manifest:
    """Ray's head: its state, the dashboard's API, Serve's controller; no replica."""
    section = plan.kubernetes.groups.get(HEAD, GroupSection())
    gateway = plan.gateway
    ports = {
        "gcs-server": GCS_PORT,
        "dashboard": DASHBOARD_PORT,
        "client": CLIENT_PORT,
        METRICS: RAY_METRICS_PORT,
        "as-metrics": AUTOSCALER_METRICS_PORT,
        "dash-metrics": DASHBOARD_METRICS_PORT,
        # By these names KubeRay makes the Service of its own; see `services`.
        "serve": gateway.http_port,
        "serve-grpc": gateway.grpc_port,
    }
    container = _container(plan, HEAD, "ray-head", ports)
    container["resources"] = compute(section.cpu or "2", section.memory or "8Gi")
    return _template(plan, HEAD, HEAD, container, section, _END_MARGIN_S)


def group_template(plan: PodPlan, group: PodGroup) -> Manifest:
    """A worker group's."""
    section = group.section
    ports = {METRICS: RAY_METRICS_PORT}
    if group.kind == "gateway":
        ports |= {"http": plan.gateway.http_port, "grpc": plan.gateway.grpc_port}
        if plan.telemetry.metrics and plan.telemetry.metrics_port is not None:
            ports[GATEWAY_METRICS] = plan.telemetry.metrics_port
    container = _container(plan, group.deployment, "ray-worker", ports)
    container["resources"] = compute(
        group.cpu, group.memory, group.need.num_gpus, str(section.gpu)
    )
    container["readinessProbe"] = _readiness(plan, group)
    # So long Ray lets what runs on the node finish, when the pod is told to end.
    leave_s = int(group.drain_s) + _LEAVE_MARGIN_S
    container["env"].append({"name": _DRAIN_VARIABLE, "value": str(leave_s)})
    template = _template(
        plan, group.deployment, group.name, container, section, leave_s + _END_MARGIN_S
    )
    # Ray's autoscaler, in the head's pod, is the only one to speak to Kubernetes.
    template["spec"]["automountServiceAccountToken"] = False
    if group.kind in ("gateway", "engine"):
        template["spec"]["topologySpreadConstraints"] = _spread(plan.kubernetes, group)
    return template


def _template(
    plan: PodPlan,
    deployment: str,
    group: str,
    container: Manifest,
    section: GroupSection,
    end_s: int,
) -> Manifest:
    kubernetes = plan.kubernetes
    spec: Manifest = {
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": end_s,
        "containers": [container],
        "volumes": _volumes(plan, deployment, section),
    }
    if kubernetes.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in kubernetes.image_pull_secrets]
    if section.node_selector:
        spec["nodeSelector"] = dict(section.node_selector)
    if section.tolerations:
        spec["tolerations"] = list(section.tolerations)
    return {"metadata": {"labels": ray_labels(kubernetes.name, group)}, "spec": spec}


def _container(plan: PodPlan, deployment: str, name: str, ports: dict[str, int]) -> Manifest:
    kubernetes = plan.kubernetes
    return {
        "name": name,
        "image": kubernetes.image,
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "env": [
            *({"name": key, "value": value} for key, value in _VARIABLES.items()),
            {
                "name": "VLLM_HOST_IP",
                "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
            },
            secret_value(LINK_TOKEN_VARIABLE, kubernetes.link_secret, "token"),
        ],
        "securityContext": container_security(),
        "volumeMounts": _mounts(plan, deployment),
    }


def _readiness(plan: PodPlan, group: PodGroup) -> Manifest:
    """Gateways where they can answer; other pods where Ray runs."""
    every = {"periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2}
    if group.kind != "gateway":
        return {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}} | every
    tls = plan.gateway.tls
    if tls is not None and tls.client_ca_file is not None:
        # The kubelet has no certificate to show.
        return {"tcpSocket": {"port": "http"}} | every
    scheme = "HTTP" if tls is None else "HTTPS"
    return {"httpGet": {"path": "/health", "port": "http", "scheme": scheme}} | every


def _spread(kubernetes: KubernetesSection, group: PodGroup) -> list[Manifest]:
    keys = [kubernetes.topology_key]
    if group.kind == "gateway":
        keys.append("kubernetes.io/hostname")
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": ray_labels(kubernetes.name, group.name)},
        }
        for key in keys
    ]


def _files(plan: PodPlan, deployment: str) -> dict[PurePosixPath, list[_File]]:
    """By folder. One below another belongs to that, since nothing can be mounted in a
    folder that is read only."""
    found: dict[PurePosixPath, list[_File]] = {}
    if deployment == HEAD:
        return found
    paths = {PurePosixPath(path): secret for path, secret in plan.kubernetes.files.items()}
    for path in sorted(paths, key=lambda each: (len(each.parts), each)):
        folder = next((f for f in found if path.is_relative_to(f)), path.parent)
        found.setdefault(folder, []).append(
            _File(str(path.relative_to(folder)), path.name, paths[path])
        )
    return found


def _volumes(plan: PodPlan, deployment: str, section: GroupSection) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": section.shared_memory}},
        {"name": "state", "emptyDir": {}},
    ]
    for number, files in enumerate(_files(plan, deployment).values()):
        sources = [
            {"secret": {"name": f.secret, "items": [{"key": f.key, "path": f.path}]}}
            for f in files
        ]
        volumes.append({"name": f"files-{number}", "projected": {"sources": sources}})
    for number, volume in _own_volumes(plan, deployment):
        source: dict[str, Any]
        if volume.claim is not None:
            source = {"persistentVolumeClaim": {"claimName": volume.claim}}
        elif volume.secret is not None:
            source = {"secret": {"secretName": volume.secret}}
        else:
            source = {"emptyDir": {"sizeLimit": volume.empty}}
        volumes.append({"name": f"volume-{number}"} | source)
    return volumes


def _mounts(plan: PodPlan, deployment: str) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "state", "mountPath": STATE_DIR},
    ]
    for number, folder in enumerate(_files(plan, deployment)):
        mounts.append({"name": f"files-{number}", "mountPath": str(folder), "readOnly": True})
    for number, volume in _own_volumes(plan, deployment):
        mount: Manifest = {"name": f"volume-{number}", "mountPath": volume.folder}
        if volume.read_only and volume.empty is None:
            mount["readOnly"] = True
        mounts.append(mount)
    return mounts


def _own_volumes(plan: PodPlan, deployment: str) -> Iterable[tuple[int, VolumeSection]]:
    for number, volume in enumerate(plan.kubernetes.volumes):
        if not volume.groups or deployment in volume.groups:
            yield number, volume
