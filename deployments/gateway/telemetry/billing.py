"""Usage records: an `Observer` that writes down what each request used."""

import uuid
from collections.abc import Callable

from deployments.gateway.telemetry.observation import Observation
from deployments.types import ModelCard
from infra.telemetry.usage_record import UsageRecord
from infra.telemetry.usage_writer import UsageWriter


class Billing:
    """Writes one record for each request that an engine worked on.

    `card_of` tells adapters from models.
    """

    def __init__(self, writer: UsageWriter, card_of: Callable[[str], ModelCard]) -> None:
        self._writer = writer
        self._card_of = card_of
        self._name_to_base: dict[str, str | None] = {}

    def on_start(self, _: Observation) -> None:
        """Nothing has been used."""

    def on_checked(self, _: Observation) -> None:
        """Nothing has been used."""

    def on_end(self, observation: Observation) -> None:
        """Write the record, unless no engine worked on the request."""
        if not observation.is_used:
            return
        base, name = self._base_of(observation.model), observation.model
        self._writer.append(
            UsageRecord(
                record_id=uuid.uuid4().hex,
                request_id=observation.request_id,
                tenant=observation.options.tenant,
                model=base or name,
                adapter=name if base else None,
                started_s=round(observation.started_at_s, 3),
                ended_s=round(observation.started_at_s + observation.duration_s, 3),
                outcome=str(observation.outcome),
                num_prompt_tokens=observation.num_prompt_tokens,
                num_cached_tokens=observation.num_cached_tokens,
                num_output_tokens=observation.num_output_tokens,
                priority=observation.options.priority,
                door=observation.options.door,
                error=observation.error,
            )
        )

    def _base_of(self, name: str) -> str | None:
        """The model that an adapter belongs to; None for a model."""
        if name not in self._name_to_base:
            self._name_to_base[name] = self._card_of(name).base_model
        return self._name_to_base[name]
