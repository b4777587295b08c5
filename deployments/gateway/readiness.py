"""Whether a gateway can answer at all: what health checks of all doors ask."""

from deployments.gateway.service import InferenceService


def is_ready(service: InferenceService) -> bool:
    """At least one model can answer."""
    return any(card.can_answer for card in service.models())
