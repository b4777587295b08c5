"""One log record a request: an `Observer`. Prompts, outputs and keys are not in it."""

import logging

from deployments.gateway.telemetry.observation import Observation

log = logging.getLogger(__name__)


class AccessLog:
    """Logs a request when it is over, with fields for whoever reads JSON."""

    def on_start(self, _: Observation) -> None:
        """The end tells all."""

    def on_checked(self, _: Observation) -> None:
        """The end tells all."""

    def on_end(self, observation: Observation) -> None:
        """Log it."""
        fields = access_fields(observation)
        log.info(
            "%s %s of %s %s: %d + %d tokens in %.3f s",
            observation.operation,
            fields["request_id"],
            fields["tenant"],
            fields["outcome"],
            observation.num_prompt_tokens,
            observation.num_output_tokens,
            observation.duration_s,
            extra=fields,
        )


def access_fields(observation: Observation) -> dict[str, str | int | float | None]:
    """What is told of a request; `*_s` in seconds, None where it does not apply."""
    options = observation.options
    return {
        "event": "request",
        "request_id": observation.request_id or options.request_id or "",
        "trace_id": observation.trace_id,
        "tenant": options.tenant,
        "priority": options.priority,
        "door": options.door,
        "operation": observation.operation,
        "model": observation.model,
        "outcome": observation.outcome,
        "error": observation.error,
        "num_prompt_tokens": observation.num_prompt_tokens,
        "num_cached_tokens": observation.num_cached_tokens,
        "num_output_tokens": observation.num_output_tokens,
        "queue_s": round(observation.queue_s, 6),
        "ttft_s": _rounded(observation.ttft_s),
        "tpot_s": _rounded(observation.tpot_s),
        "duration_s": round(observation.duration_s, 6),
    }


def _rounded(duration_s: float | None) -> float | None:
    return None if duration_s is None else round(duration_s, 6)
