"""The RayService: Ray's cluster, and the Serve application on it."""

from importlib.metadata import version
from typing import Any

from deployments.kubernetes.groups import HEAD, PodGroup
from deployments.kubernetes.objects import HEAD_STORE, Manifest, manifest
from deployments.kubernetes.pods import PodPlan, group_template, head_template
from deployments.kubernetes.settings import GroupSection
from deployments.kubernetes.texts import text_of

_OBJECT_STORE_BYTES = 500_000_000
_AUTOSCALER = {"cpu": "500m", "memory": "512Mi"}


def ray_service(plan: PodPlan, groups: list[PodGroup], sections: dict[str, Any]) -> Manifest:
    """`sections` are the application's arguments; see `deployments.app`."""
    kubernetes = plan.kubernetes
    cluster: Manifest = {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": kubernetes.upscaling,
            "idleTimeoutSeconds": kubernetes.idle_timeout_s,
            "resources": {"requests": dict(_AUTOSCALER), "limits": dict(_AUTOSCALER)},
        },
        # By name, as it must be the same for the old cluster and the new one.
        "authOptions": {"mode": "token", "secretName": kubernetes.ray_token_secret},
        "headGroupSpec": _head(plan),
        "workerGroupSpecs": [_worker_group(plan, group) for group in groups],
    }
    if kubernetes.head_store is not None:
        name = f"{kubernetes.name}-{HEAD_STORE}"
        cluster["gcsFaultToleranceOptions"] = {
            "redisAddress": f"redis://{name}:6379",
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}},
        }
    spec: Manifest = {
        # A second cluster comes up beside the first, and takes over when all of it runs.
        # Incremental upgrades lead HTTP alone over to it, and no gRPC.
        "upgradeStrategy": {"type": "NewCluster"},
        "excludeHeadPodFromServeSvc": True,
        "serveConfigV2": serve_config(sections),
        "rayClusterConfig": cluster,
    }
    return manifest("ray.io/v1", "RayService", kubernetes.name, kubernetes.name, spec)


def serve_config(sections: dict[str, Any]) -> str:
    """The text that Serve's API takes."""
    application = {
        "name": sections["cluster"].get("app_name", "coterie"),
        "import_path": "deployments.app:build",
        # Gateways open doors of their own.
        "route_prefix": None,
        "args": sections,
    }
    fields = {"proxy_location": "Disabled", "applications": [application]}
    return text_of(fields)


def _head(plan: PodPlan) -> Manifest:
    section = plan.kubernetes.groups.get(HEAD, GroupSection())
    return {
        "rayStartParams": {
            "dashboard-host": "0.0.0.0",
            "object-store-memory": str(_OBJECT_STORE_BYTES),
        },
        # Nothing but Ray itself runs there.
        "resources": {"CPU": "0", "memory": section.memory or "8Gi"},
        "template": head_template(plan),
    }


def _worker_group(plan: PodPlan, group: PodGroup) -> Manifest:
    resources = {"CPU": group.cpu, "memory": group.memory}
    if group.need.num_gpus:
        resources["GPU"] = str(group.need.num_gpus)
    resources |= {name: str(number) for name, number in group.offers.items()}
    section = group.section
    made: Manifest = {
        "groupName": group.name,
        "minReplicas": group.min_pods,
        "maxReplicas": group.max_pods,
        "replicas": group.min_pods,
        "rayStartParams": {"object-store-memory": str(_OBJECT_STORE_BYTES)},
        "resources": resources,
        "template": group_template(plan, group),
    }
    if section.idle_timeout_s is not None:
        made["idleTimeoutSeconds"] = section.idle_timeout_s
    if section.priority is not None:
        made["priority"] = section.priority
    return made
