"""Whether a gateway can answer at all: what health checks of all doors ask."""

from deployments.gateway.service import InferenceService


def is_ready(service: InferenceService) -> bool:
    """At least one model has a ready engine replica."""
    return any(card.num_ready_replicas for card in service.models())
