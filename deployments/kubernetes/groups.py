"""Which pods there are, and how many: a group for each Serve deployment that computes.

| group            | a pod holds                             | offers of Ray's resource |
|------------------|-----------------------------------------|--------------------------|
| `gateway`        | gateways, and directors of expert tiers | one a gateway            |
| `engine-MODEL`   | whole engines                           | one an engine            |
| ... with stages  | one pipeline stage of an engine on GPUs | one a rank, and one      |
| `experts-MODEL`  | expert hosts                            | one a host               |
| `drafts-MODEL`   | draft replicas                          | one a replica            |

The resource has the deployment's name, and its replicas ask for it (`cluster.node_groups`), so
they run on pods of their group alone, and Ray's autoscaler sees which group lacks one.

Worked example: 3 engines of 2 GPUs, 4 to a pod: a pod has 8 GPUs and offers 4, and one pod is
enough.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deployments.deployment_names import (
    GATEWAY,
    director_deployment,
    draft_deployment,
    engine_deployment,
    expert_host_deployment,
)
from deployments.engine.plan import Device
from deployments.kubernetes.settings import GroupSection, KubernetesSection
from deployments.settings import GatewaySection, ModelSection
from infra.errors import ConfigError
from infra.section_file import nearest

Kind = Literal["gateway", "engine", "experts", "drafts"]

HEAD = "head"
_MAX_GROUP_NAME = 40
_GPU_CPUS, _GPU_MEMORY_GI = 4, 64


class Need(NamedTuple):
    """What one replica takes of a pod; of an engine whose stages are apart, one stage."""

    cpus: float
    memory_gi: int
    num_gpus: int = 0


@dataclass(frozen=True)
class PodGroup:
    """Pods that are alike: a worker group of the RayCluster."""

    kind: Kind
    deployment: str
    """The Serve deployment whose replicas run there; Ray's resource has its name."""
    section: GroupSection
    need: Need
    """Of a whole pod."""
    offers: Mapping[str, int]
    """Ray's own resources, of a pod."""
    min_pods: int
    max_pods: int
    drain_s: float
    """How long its replicas may take to end."""

    @property
    def name(self) -> str:
        """Of the worker group, as Kubernetes allows it."""
        return dns_label(self.deployment)

    @property
    def cpu(self) -> str:
        """Quantity, of a pod."""
        return self.section.cpu or str(math.ceil(self.need.cpus))

    @property
    def memory(self) -> str:
        """Quantity, of a pod."""
        return self.section.memory or f"{self.need.memory_gi}Gi"


def dns_label(name: str) -> str:
    """The name itself where it is a short DNS label; else one like it, and its own."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= _MAX_GROUP_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{plain[: _MAX_GROUP_NAME - 7].strip('-')}-{digest}"


def plan_groups(
    gateway: GatewaySection, models: list[ModelSection], kubernetes: KubernetesSection
) -> list[PodGroup]:
    """The gateways' first, then each model's. Raises ConfigError for what cannot be placed."""
    groups = [_gateways(gateway, models, kubernetes)]
    for model in models:
        groups.append(_engines(model, kubernetes))
        groups.extend(_tiers(model, kubernetes))
    known = {HEAD, *(group.deployment for group in groups)}
    for name in [*kubernetes.groups, *(g for v in kubernetes.volumes for g in v.groups)]:
        if name not in known:
            close = nearest(name, known)
            advice = f"did you mean {close}?" if close else f"write {', '.join(sorted(known))}"
            raise ConfigError(f"kubernetes: there is no group {name}; {advice}")
    return groups


def device_of(model: ModelSection) -> Device:
    """Raises ConfigError where it is left to a machine that is not there yet."""
    if model.device == "auto":
        raise ConfigError(
            f"models.{model.name}: device is auto, and pods are planned where no engine is "
            "installed; write device: cuda or device: cpu"
        )
    return model.device


def _gateways(
    gateway: GatewaySection, models: list[ModelSection], kubernetes: KubernetesSection
) -> PodGroup:
    section = _section(kubernetes, GATEWAY)
    directors = [director_deployment(m.name) for m in models if m.has_expert_tier]
    own = dict.fromkeys(directors, section.replicas_per_pod)
    return _group(
        "gateway",
        GATEWAY,
        kubernetes,
        Need(max(2.0, gateway.num_cpus), 4),
        Range(gateway.fewest, gateway.most),
        drain_s=gateway.drain_timeout_s,
        more=own,
    )


def _engines(model: ModelSection, kubernetes: KubernetesSection) -> PodGroup:
    name = engine_deployment(model.name)
    section = _section(kubernetes, name)
    counts = Range(model.fewest, model.most)
    if device_of(model) == "cpu":
        cpus = (model.num_cpus_per_rank or 4.0) * model.num_ranks
        need = Need(cpus, 16 * model.num_ranks)
        return _group("engine", name, kubernetes, need, counts, drain_s=model.drain_timeout_s)
    num_gpus, num_stages = model.tensor_parallel_size, model.pipeline_parallel_size
    cpus_per_rank = max(_GPU_CPUS, model.num_cpus_per_rank or 1.0)
    # The replica's own actor is on one of its stages' pods, and takes a CPU there.
    cpus = cpus_per_rank * num_gpus + (num_stages > 1)
    need = Need(cpus, _GPU_MEMORY_GI * num_gpus, num_gpus)
    if num_stages == 1:
        return _group("engine", name, kubernetes, need, counts, drain_s=model.drain_timeout_s)
    if section.replicas_per_pod > 1:
        raise ConfigError(
            f"kubernetes.groups.{name}: replicas_per_pod is {section.replicas_per_pod}, and "
            "each pod holds one pipeline stage; leave it out"
        )
    stages = Range(counts.fewest * num_stages, counts.most * num_stages)
    return _group(
        "engine",
        name,
        kubernetes,
        need,
        stages,
        drain_s=model.drain_timeout_s,
        more={name: num_gpus + 1},
    )


def _tiers(model: ModelSection, kubernetes: KubernetesSection) -> Iterator[PodGroup]:
    experts, draft = model.experts, model.speculation.draft
    if model.has_expert_tier:
        name = expert_host_deployment(model.name)
        yield _group(
            "experts",
            name,
            kubernetes,
            Need(4.0, 16, int(experts.host_device == "cuda")),
            Range(experts.fewest, experts.most),
            drain_s=model.drain_timeout_s,
        )
    if model.speculation.has_draft_tier:
        name = draft_deployment(model.name)
        yield _group(
            "drafts",
            name,
            kubernetes,
            Need(2.0, 8, int(draft.device == "cuda")),
            Range(draft.fewest, draft.most),
            drain_s=0.0,
        )


def _section(kubernetes: KubernetesSection, deployment: str) -> GroupSection:
    return kubernetes.groups.get(deployment, GroupSection())


class Range(NamedTuple):
    """How many replicas there may be."""

    fewest: int
    most: int


def _group(
    kind: Kind,
    deployment: str,
    kubernetes: KubernetesSection,
    need: Need,
    counts: Range,
    *,
    drain_s: float,
    more: Mapping[str, int] | None = None,
) -> PodGroup:
    section = _section(kubernetes, deployment)
    per_pod = section.replicas_per_pod
    fewest = math.ceil(counts.fewest / per_pod)
    most = math.ceil(counts.most / per_pod)
    min_pods = fewest if section.min_pods is None else section.min_pods
    max_pods = max(most, min_pods) if section.max_pods is None else section.max_pods
    if max_pods < max(min_pods, 1):
        raise ConfigError(
            f"kubernetes.groups.{deployment}: max_pods {max_pods} is less than "
            f"{min_pods}, the fewest; raise it, or lower min_pods"
        )
    return PodGroup(
        kind=kind,
        deployment=deployment,
        section=section,
        need=Need(need.cpus * per_pod, need.memory_gi * per_pod, need.num_gpus * per_pod),
        offers={deployment: per_pod} | dict(more or {}),
        min_pods=min_pods,
        max_pods=max_pods,
        drain_s=drain_s,
    )
