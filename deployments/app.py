"""The Serve application: one gateway deployment, one engine deployment a model.

`deployments.app:build` is its import path for `serve run`, `serve deploy` and
KubeRay's `serveConfigV2`; its arguments are the sections of the configuration
file.

Where `coterie up` deploys it again, gateways are replaced, which read all their files anew,
and those engines whose code or arguments have changed. With `serveConfigV2` Serve replaces
all of them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from cache.settings import CacheSection
from deployments import metadata_server
from deployments.autoscaling import Limits, busy_options
from deployments.code_version import code_version
from deployments.deployment_names import GATEWAY, engine_deployment, node_resources
from deployments.drafts.deployment import draft_replicas
from deployments.engine.autoscaling import engine_scaling_options
from deployments.engine.cores import num_ranks_to_share
from deployments.engine.plan import Device, Machine, plan_placement
from deployments.engine.replica import EngineReplica
from deployments.experts.deployment import Sharing, tier_deployments
from deployments.gateway.replica import Gateway
from deployments.gateway.replica_watch import ReplicaWatch
from deployments.replica_logging import logging_config
from deployments.secret_file import checked_secret, shared_secret
from deployments.settings import ClusterSection, GatewaySection, ModelSection
from experts.settings import ExpertsSection
from infra.errors import ConfigError
from infra.telemetry.settings import TelemetrySection
from router.settings import AdmissionSection, RouterSection, TenantSection
from router.speculation.settings import DraftSection

LINK_TOKEN_VARIABLE = "COTERIE_LINK_TOKEN"
_HEALTH_PERIOD_S = 2.0
# Serve replaces what has not answered three times. A gateway that stands still takes its share
# of new connections all the while.
_GATEWAY_HEALTH_TIMEOUT_S = 10.0
_SHUTDOWN_MARGIN_S = 15.0
# Serve waits this long, 2 s by default, before it looks whether calls of its own are under
# way. There are none: requests pass it by, and replicas drain them themselves.
_SHUTDOWN_LOOK_S = 0.1
_NOT_THE_ENGINES = {"num_replicas", "min_replicas", "max_replicas", "autoscaling"}


def build(args: dict[str, Any]) -> serve.Application:
    """The application for the sections of a configuration; see `coterie.config.Config`.

    Raises pydantic's ValidationError for a section that does not hold.
    """
    cluster = ClusterSection.model_validate(args.get("cluster", {}))
    gateway = GatewaySection.model_validate(args.get("gateway", {}))
    router = RouterSection.model_validate(args.get("router", {}))
    admission = AdmissionSection.model_validate(args.get("admission", {}))
    tenants = [TenantSection.model_validate(t) for t in args.get("tenants", [])]
    models = [ModelSection.model_validate(m) for m in args["models"]]
    telemetry = TelemetrySection.model_validate(args.get("telemetry", {}))
    cache = CacheSection.model_validate(args.get("cache", {}))
    state_dir = cluster.state_dir.expanduser()
    link = {"token": link_token(state_dir), "state_dir": str(state_dir)}
    index = index_arguments(cache, cluster)
    num_cpu_ranks = num_ranks_to_share([m for m in models if _device(m) == "cpu"])
    sharing = Sharing(
        link, num_cpu_ranks, logging_config(telemetry), _version, cluster.node_groups
    )
    tiers = {
        model.name: tier_deployments(model, sharing)
        for model in models
        if _checked(model).has_expert_tier
    }
    engines = {
        model.name: _engine(
            model,
            _engine_arguments(model, link, telemetry, index, num_cpu_ranks),
            sharing,
            (tiers[model.name].hosts if model.name in tiers else None),
            draft_replicas(model, sharing),
        )
        for model in models
    }
    directors = {name: tier.director for name, tier in tiers.items()}
    sections = {
        "gateway": gateway.model_dump(mode="json"),
        "models": [model.model_dump(mode="json") for model in models],
        "router": router.model_dump(mode="json"),
        "admission": admission.model_dump(mode="json"),
        "tenants": [tenant.model_dump(mode="json") for tenant in tenants],
        "telemetry": telemetry.model_dump(mode="json"),
    }
    return _gateway(gateway, sharing).bind(sections, link, engines, index, directors)


def index_arguments(cache: CacheSection, cluster: ClusterSection) -> dict[str, Any] | None:
    """What `PrefixStore.from_arguments` takes; None where no index is kept: it is switched
    off, or nobody has named a server for a cluster that is not of this machine."""
    url = cache.url
    if url is None and cluster.address is None:
        embedded = metadata_server.find(cluster)
        url = None if embedded is None else embedded.url
    if not cache.enabled or url is None:
        return None
    return {
        "cache": cache.model_dump(mode="json"),
        "url": url,
        "app_name": cluster.app_name,
    }


def link_token(state_dir: Path) -> str:
    """The secret by which gateways prove themselves to engine replicas.

    From the environment where it is set (a Kubernetes secret, say), else from
    a file of the state directory that is made once. It must not change with
    the configuration, as every change would restart all engines. Raises ConfigError
    for one that is too short.
    """
    given = os.environ.get(LINK_TOKEN_VARIABLE)
    if given is not None:
        return checked_secret(given, LINK_TOKEN_VARIABLE)
    return shared_secret(state_dir / "link_token")


def _gateway(section: GatewaySection, sharing: Sharing) -> serve.Deployment:
    return serve.deployment(Gateway).options(
        name=GATEWAY,
        ray_actor_options={
            "num_cpus": section.num_cpus,
            "resources": node_resources(GATEWAY, sharing.has_node_groups),
        },
        graceful_shutdown_timeout_s=section.drain_timeout_s + _SHUTDOWN_MARGIN_S,
        graceful_shutdown_wait_loop_s=_SHUTDOWN_LOOK_S,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_GATEWAY_HEALTH_TIMEOUT_S,
        max_constructor_retry_count=3,
        logging_config=sharing.logging_config,
        **busy_options(
            Limits(section.fewest, section.num_replicas, section.most), section.autoscaling
        ),
        request_router_config=RequestRouterConfig(request_router_class=ReplicaWatch),
    )


def _engine_arguments(
    model: ModelSection,
    link: dict[str, str],
    telemetry: TelemetrySection,
    index: dict[str, Any] | None,
    num_cpu_ranks: int,
) -> tuple[Any, ...]:
    """An engine is replaced where these change."""
    device = _device(model)
    executor = plan_placement(model, device).executor
    return (
        _engines_own(model).model_dump(mode="json", exclude=_NOT_THE_ENGINES),
        Machine(device=device, executor=executor, num_cpu_ranks=num_cpu_ranks),
        link,
        telemetry.tracing_arguments(),
        index,
    )


def _engines_own(model: ModelSection) -> ModelSection:
    """How many replicas there are is not a replica's business, nor how its experts are
    spread over hosts, nor who drafts."""
    speculation = model.speculation
    if speculation.has_draft_tier:
        draft = DraftSection(
            model=speculation.draft.model, context_tokens=speculation.draft.context_tokens
        )
        speculation = speculation.model_copy(update={"draft": draft})
    experts = ExpertsSection(placement=model.experts.placement)
    return model.model_copy(update={"experts": experts, "speculation": speculation})


def _engine(
    model: ModelSection,
    arguments: tuple[Any, ...],
    sharing: Sharing,
    expert_hosts: serve.Application | None,
    drafts: serve.Application | None,
) -> serve.Application:
    name = engine_deployment(model.name)
    placement = plan_placement(model, _device(model))
    resources = node_resources(name, sharing.has_node_groups)
    options: dict[str, Any] = {}
    if any(amount for bundle in placement.bundles for amount in bundle.values()):
        options["placement_group_bundles"] = [b | resources for b in placement.bundles]
        options["placement_group_strategy"] = placement.strategy
    return (
        serve.deployment(EngineReplica)
        .options(
            name=name,
            ray_actor_options={
                "num_cpus": placement.actor_num_cpus,
                "num_gpus": placement.actor_num_gpus,
                "resources": resources,
            },
            graceful_shutdown_timeout_s=model.drain_timeout_s + _SHUTDOWN_MARGIN_S,
            graceful_shutdown_wait_loop_s=_SHUTDOWN_LOOK_S,
            health_check_period_s=_HEALTH_PERIOD_S,
            health_check_timeout_s=model.health_timeout_s + _SHUTDOWN_MARGIN_S,
            max_constructor_retry_count=3,
            logging_config=sharing.logging_config,
            request_router_config=RequestRouterConfig(request_router_class=ReplicaWatch),
            **engine_scaling_options(model),
            **options,
            version=_version(*arguments),
            _internal=True,
        )
        .bind(*arguments, expert_hosts, drafts)
    )


def _checked(model: ModelSection) -> ModelSection:
    """Raises ConfigError for tiers that cannot be with the installed build."""
    if model.speculation.draft.device == "cuda" and _built_for() == "cpu":
        raise ConfigError(
            f"models.{model.name}.speculation.draft: device is cuda, and the installed torch "
            "is built for CPUs; set it to cpu, or install the build for GPUs (make setup "
            "DEVICE=gpu)"
        )
    if not model.has_expert_tier:
        return model
    if _device(model) == "cuda" and model.pipeline_parallel_size > 1:
        # Their ranks are on several nodes, and find hosts by a file of their replica's node.
        raise ConfigError(
            f"models.{model.name}: experts.placement is service, which cannot be with pipeline "
            "stages on GPUs; set pipeline_parallel_size to 1, or experts.placement to engine"
        )
    if model.experts.host_device == "cuda" and _built_for() == "cpu":
        raise ConfigError(
            f"models.{model.name}.experts: host_device is cuda, and the installed torch is "
            "built for CPUs; set it to cpu, or install the build for GPUs (make setup "
            "DEVICE=gpu)"
        )
    return model


def _version(*arguments: Any) -> str:
    """By which Serve keeps replicas of the same code and arguments. Left to itself it
    takes everything that is deployed for new; the option is not public any more."""
    content = json.dumps([code_version(), arguments], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _device(model: ModelSection) -> Device:
    return _built_for() if model.device == "auto" else model.device


def _built_for() -> Device:
    # The version of torch tells without importing it: "2.13.0+cpu".
    from importlib.metadata import version  # noqa: PLC0415

    return "cpu" if version("torch").endswith("+cpu") else "cuda"
