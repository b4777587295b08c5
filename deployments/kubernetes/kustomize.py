"""The files: a Kustomize base with everything in it, and overlays that change it.

    base/       as the configuration says
    overlays/
      dev/      one small pod of each kind, of nodes as they are; no monitors, no spread
      gpu/      pods with GPUs bear the taint of GPU nodes, and only they go there

Patches are JSON 6902, each with a `test` of what it changes: Kustomize would replace the
whole list of worker groups where a merge is asked of it.
"""

from typing import Any

from deployments.kubernetes.groups import PodGroup
from deployments.kubernetes.objects import Manifest
from deployments.kubernetes.settings import KubernetesSection
from deployments.kubernetes.texts import text_of

Patch = list[dict[str, Any]]

_KIND = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
_OPERATORS_OWN = ("PodMonitor", "PrometheusRule")
_GROUPS = "/spec/rayClusterConfig/workerGroupSpecs"


def base(kubernetes: KubernetesSection, files: list[str]) -> Manifest:
    """Of these files beside it."""
    made: Manifest = dict(_KIND)
    if kubernetes.namespace is not None:
        made["namespace"] = kubernetes.namespace
    return made | {"resources": files}


def dev_overlay(kubernetes: KubernetesSection, groups: list[PodGroup]) -> Manifest:
    """For a cluster on a laptop, or a namespace to try things in."""
    patch: Patch = []
    for number, group in enumerate(groups):
        place = f"{_GROUPS}/{number}"
        patch.append(_test(place, group))
        patch += [
            {"op": "replace", "path": f"{place}/{key}", "value": min(1, group.max_pods)}
            for key in ("minReplicas", "replicas")
        ]
        if group.kind in ("gateway", "engine"):
            spread = f"{place}/template/spec/topologySpreadConstraints"
            patch.append({"op": "remove", "path": spread})
    patches: list[Manifest] = [_of_service(kubernetes, patch)]
    if kubernetes.monitors:
        patches += [_deleting(kind, f"{kubernetes.name}.*") for kind in _OPERATORS_OWN]
    patches.append(_deleting("PodDisruptionBudget", f"{kubernetes.name}-.*"))
    return _KIND | {"resources": ["../../base"], "patches": patches}


def gpu_overlay(kubernetes: KubernetesSection, groups: list[PodGroup]) -> Manifest:
    """For clusters whose GPU nodes are kept for pods that use them."""
    patch: Patch = []
    for number, group in enumerate(groups):
        if not group.need.num_gpus:
            continue
        place = f"{_GROUPS}/{number}"
        patch.append(_test(place, group))
        tolerations = [*group.section.tolerations, _GPU_TOLERATION]
        path = f"{place}/template/spec/tolerations"
        patch.append({"op": "add", "path": path, "value": tolerations})
    made = _KIND | {"resources": ["../../base"]}
    return made | {"patches": [_of_service(kubernetes, patch)]} if patch else made


def _test(place: str, group: PodGroup) -> dict[str, Any]:
    return {"op": "test", "path": f"{place}/groupName", "value": group.name}


def _of_service(kubernetes: KubernetesSection, patch: Patch) -> Manifest:
    return {
        "target": {"kind": "RayService", "name": kubernetes.name},
        "patch": text_of(patch),
    }


def _deleting(kind: str, name: str) -> Manifest:
    return {
        "target": {"kind": kind, "name": name},
        "patch": text_of({"$patch": "delete", "kind": kind, "metadata": {"name": "any"}}),
    }
