"""The Serve deployments of an expert tier: its hosts, and their director."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.autoscaling import Limits, busy_options
from deployments.deployment_names import (
    director_deployment,
    expert_host_deployment,
    node_resources,
)
from deployments.experts.director_replica import ExpertDirectorReplica
from deployments.experts.host_replica import ExpertHostReplica
from deployments.gateway.replica_watch import ReplicaWatch
from deployments.settings import ModelSection
from experts.settings import ExpertsSection

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 30.0
_SHUTDOWN_MARGIN_S = 15.0
# See `deployments.app`.
_SHUTDOWN_LOOK_S = 0.1


@dataclass(frozen=True)
class TierDeployments:
    """Bound, to be handed to those that need their handles."""

    hosts: serve.Application
    director: serve.Application


@dataclass(frozen=True)
class Sharing:
    """What the deployments of an application have in common."""

    link: dict[str, str]
    """The cluster's token and state directory."""
    num_cpu_ranks: int
    logging_config: dict[str, Any]
    version: Callable[..., str]
    """Of arguments: replicas stay where it stays."""
    has_node_groups: bool
    """See `deployments.deployment_names`."""


def tier_deployments(model: ModelSection, sharing: Sharing) -> TierDeployments:
    """Of a model whose experts are to be on hosts."""
    assert model.has_expert_tier
    hosts = _hosts(model, sharing)
    return TierDeployments(hosts, _director(model, sharing, hosts))


def _hosts(model: ModelSection, sharing: Sharing) -> serve.Application:
    experts = model.experts
    # What a host does not do by itself must not replace it when it changes.
    own = ExpertsSection(
        placement="service",
        num_hosts=experts.fewest if experts.slots_per_host is None else 1,
        slots_per_host=experts.slots_per_host,
        precision=experts.precision,
        host_device=experts.host_device,
        copies_factor=experts.copies_factor,
    )
    arguments = (_reduced(model, own), sharing.link, sharing.num_cpu_ranks)
    limits = Limits(experts.fewest, experts.num_hosts, experts.most)
    name = expert_host_deployment(model.name)
    return (
        serve.deployment(ExpertHostReplica)
        .options(
            name=name,
            ray_actor_options={
                "num_cpus": 0.0,
                "num_gpus": 1.0 if experts.host_device == "cuda" else 0.0,
                "resources": node_resources(name, sharing.has_node_groups),
            },
            graceful_shutdown_timeout_s=model.drain_timeout_s + _SHUTDOWN_MARGIN_S,
            request_router_config=RequestRouterConfig(request_router_class=ReplicaWatch),
            version=sharing.version(*arguments),
            **busy_options(limits, experts.autoscaling),
            **serve_options(sharing),
        )
        .bind(*arguments)
    )


def _director(
    model: ModelSection, sharing: Sharing, hosts: serve.Application
) -> serve.Application:
    arguments = (_reduced(model, model.experts), sharing.link)
    name = director_deployment(model.name)
    return (
        serve.deployment(ExpertDirectorReplica)
        .options(
            name=name,
            num_replicas=1,
            ray_actor_options={
                "num_cpus": 0.0,
                "resources": node_resources(name, sharing.has_node_groups),
            },
            version=sharing.version(*arguments),
            **serve_options(sharing),
        )
        .bind(*arguments, hosts)
    )


def _reduced(model: ModelSection, experts: ExpertsSection) -> dict[str, Any]:
    """The section with what concerns the tier, and nothing else of the engine's."""
    reduced = ModelSection(
        name=model.name,
        model=model.model,
        dtype=model.dtype,
        drain_timeout_s=model.drain_timeout_s,
        experts=experts,
    )
    return reduced.model_dump(mode="json")


def serve_options(sharing: Sharing) -> dict[str, Any]:
    """Of all deployments that Serve itself sends no requests."""
    return {
        "graceful_shutdown_wait_loop_s": _SHUTDOWN_LOOK_S,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": _HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": 3,
        "logging_config": sharing.logging_config,
        "_internal": True,
    }
