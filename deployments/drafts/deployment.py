"""The Serve deployment of a model's draft replicas."""

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.autoscaling import Limits, busy_options
from deployments.deployment_names import draft_deployment, node_resources
from deployments.drafts.draft_replica import DraftReplica
from deployments.experts.deployment import Sharing, serve_options
from deployments.gateway.replica_watch import ReplicaWatch
from deployments.settings import ModelSection
from router.speculation.settings import DraftSection, SpeculationSection

_SHUTDOWN_MARGIN_S = 15.0


def draft_replicas(model: ModelSection, sharing: Sharing) -> serve.Application | None:
    """Of the model; None where its engines ask nobody for drafts."""
    if not model.speculation.has_draft_tier:
        return None
    draft = model.speculation.draft
    # What a draft replica does not go by must not replace it when it changes.
    own = DraftSection(
        model=draft.model,
        device=draft.device,
        precision=draft.precision,
        context_tokens=draft.context_tokens,
        ahead_tokens=draft.ahead_tokens,
        kv_cache_memory_bytes=draft.kv_cache_memory_bytes,
    )
    speculation = SpeculationSection(drafters=("draft_model",), draft=own)
    limits = Limits(draft.fewest, draft.num_replicas, draft.most)
    # One core, the one to which the fewest are bound: the gateway's, where it has one.
    reduced = ModelSection(
        name=model.name, model=model.model, speculation=speculation, num_cpus_per_rank=1.0
    )
    arguments = (reduced.model_dump(mode="json"), sharing.link, sharing.num_cpu_ranks)
    name = draft_deployment(model.name)
    return (
        serve.deployment(DraftReplica)
        .options(
            name=name,
            ray_actor_options={
                "num_cpus": 0.0,
                "num_gpus": 1.0 if draft.device == "cuda" else 0.0,
                "resources": node_resources(name, sharing.has_node_groups),
            },
            graceful_shutdown_timeout_s=_SHUTDOWN_MARGIN_S,
            request_router_config=RequestRouterConfig(request_router_class=ReplicaWatch),
            version=sharing.version(*arguments),
            **busy_options(limits, draft.autoscaling),
            **serve_options(sharing),
        )
        .bind(*arguments)
    )
