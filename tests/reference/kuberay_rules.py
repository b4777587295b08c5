"""What KubeRay's operator refuses, or passes over in silence, though the definition of its
resource allows it. Source: KubeRay v1.7.0, `ray-operator/controllers/ray/utils/validation.go`
and `common/{pod,service}.go`.
"""

import re
from collections.abc import Iterator
from typing import Any

_MAX_NAME = 47
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_FT_VARIABLES = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}


def broken_rules(service: dict[str, Any]) -> list[str]:
    """Of a RayService."""
    return [*_names(service), *_cluster(service["spec"]["rayClusterConfig"])]


def _names(service: dict[str, Any]) -> Iterator[str]:
    name, spec = service["metadata"]["name"], service["spec"]
    if len(name) > _MAX_NAME or not _DNS_1035.fullmatch(name):
        yield f"the name {name} is no DNS-1035 label of at most {_MAX_NAME} characters"
    options = spec.get("upgradeStrategy", {}).get("clusterUpgradeOptions")
    if options is not None:
        if options["stepSizePercent"] > options.get("maxSurgePercent", 100):
            yield "stepSizePercent is above maxSurgePercent"
        if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
            yield "an incremental upgrade needs enableInTreeAutoscaling"
    ports = [port["name"] for port in _head(spec["rayClusterConfig"])["ports"]]
    if "serve" not in ports:
        yield "the head names no port serve, and its Service has none"


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    version = str(cluster.get("rayVersion", ""))
    if cluster.get("authOptions", {}).get("mode") == "token":
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            yield f"authOptions needs rayVersion, and that is {version!r}"
        elif tuple(map(int, version.split("."))) < (2, 52, 0):
            yield "authOptions needs Ray 2.52"
    if "gcsFaultToleranceOptions" in cluster:
        given = {each["name"] for each in _head(cluster).get("env", [])}
        if given & _FT_VARIABLES:
            yield "variables of the head's store are set beside gcsFaultToleranceOptions"
    groups = [("head", cluster["headGroupSpec"])]
    groups += [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
    names = [name for name, _ in groups]
    if len(set(names)) < len(names):
        yield "two groups have one name"
    for name, group in groups:
        for rule in _group(group, is_scaled=bool(cluster.get("enableInTreeAutoscaling"))):
            yield f"{name}: {rule}"


def _group(group: dict[str, Any], *, is_scaled: bool) -> Iterator[str]:
    spec = group["template"]["spec"]
    if not spec.get("containers"):
        yield "no container"
    if is_scaled and spec.get("restartPolicy", "Never") != "Never":
        yield "restartPolicy must be Never"
    if is_scaled and group.get("suspend"):
        yield "suspend and autoscaling do not go together"
    if group.get("minReplicas", 0) > group.get("maxReplicas", 1):
        yield "minReplicas is above maxReplicas"
    given = {"num-cpus", "num-gpus", "memory", "resources"} & {*group.get("rayStartParams", {})}
    if given and group.get("resources"):
        yield f"resources and rayStartParams' {', '.join(sorted(given))} are both given"


def _head(cluster: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found
