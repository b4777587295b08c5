"""The router's section of the configuration."""

from typing import Annotated, Literal

from pydantic import Field

from infra.section import Section


class RouterSection(Section):
    """Which engine replica takes a request."""

    policy: Literal["least_loaded", "round_robin"] = "least_loaded"
    """`least_loaded`: the replica with the fewest tokens to work off.
    `round_robin`: each in turn."""

    replica_wait_s: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for an engine replica of its model where none is
    ready, as while replicas are replaced. Before a model's first replica is
    ready, requests fail at once."""
