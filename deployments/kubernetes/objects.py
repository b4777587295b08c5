"""What all manifests are made of: names, labels, and fields that many of them have."""

from typing import Any

Manifest = dict[str, Any]

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
GROUP = "coterie.dev/group"

RAY = "ray"
INDEX_STORE = "index-store"
HEAD_STORE = "head-store"

NUMERIC_USER, NUMERIC_GROUP = 1000, 100
"""Of Ray's images."""


def manifest(
    api_version: str, kind: str, name: str, service: str, spec: Manifest | None = None
) -> Manifest:
    """An object that belongs to the RayService of this name."""
    made: Manifest = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "labels": {PART_OF: service}},
    }
    return made if spec is None else made | {"spec": spec}


def ray_labels(service: str, group: str | None = None) -> dict[str, str]:
    """Labels of all of Ray's pods, or of those of a group; old and new clusters alike."""
    labels = {PART_OF: service, COMPONENT: RAY}
    return labels if group is None else labels | {GROUP: group}


def store_labels(service: str, component: str) -> dict[str, str]:
    """Labels of the pod of a Valkey server."""
    return {PART_OF: service, COMPONENT: component}


def pod_security(user: int = NUMERIC_USER, group: int = NUMERIC_GROUP) -> Manifest:
    """A pod's: nobody is root."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """A container's: nobody becomes root, though Ray's images have sudo."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def secret_value(variable: str, secret: str, key: str) -> Manifest:
    """An environment variable out of a Secret."""
    return {
        "name": variable,
        "valueFrom": {"secretKeyRef": {"name": secret, "key": key}},
    }


def compute(cpu: str, memory: str, num_gpus: int = 0, gpu: str = "") -> Manifest:
    """Requests and limits that are alike, so that the pod is evicted last."""
    amounts: Manifest = {"cpu": cpu, "memory": memory}
    if num_gpus:
        amounts[gpu] = str(num_gpus)
    return {"requests": dict(amounts), "limits": amounts}
