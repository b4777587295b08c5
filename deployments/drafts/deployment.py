"""The Serve deployment of a model's draft replicas."""

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.drafts.draft_replica import DraftReplica
from deployments.experts.deployment import Sharing, serve_options
from deployments.gateway.replica_watch import ReplicaWatch
from deployments.settings import ModelSection

_SHUTDOWN_MARGIN_S = 15.0


def draft_deployment(model_name: str) -> str:
    """Name of the Serve deployment that holds the model's draft replicas."""
    return "drafts-" + model_name.replace("/", "--")


def draft_replicas(model: ModelSection, sharing: Sharing) -> serve.Application | None:
    """Of the model; None where its engines ask nobody for drafts."""
    if not model.speculation.has_draft_tier:
        return None
    draft = model.speculation.draft
    # What a draft replica does not go by must not replace it when it changes.
    own = model.speculation.model_copy(
        update={"drafters": ("draft_model",), "draft": draft.model_copy(update=_ONE)}
    )
    reduced = ModelSection(name=model.name, model=model.model, speculation=own)
    arguments = (reduced.model_dump(mode="json"), sharing.link, sharing.num_cpu_ranks)
    return (
        serve.deployment(DraftReplica)
        .options(
            name=draft_deployment(model.name),
            num_replicas=draft.num_replicas,
            ray_actor_options={
                "num_cpus": 0.0,
                "num_gpus": 1.0 if draft.device == "cuda" else 0.0,
            },
            graceful_shutdown_timeout_s=_SHUTDOWN_MARGIN_S,
            request_router_config=RequestRouterConfig(request_router_class=ReplicaWatch),
            version=sharing.version(*arguments),
            **serve_options(sharing),
        )
        .bind(*arguments)
    )


_ONE = {"num_replicas": 1}
