"""The router's section of the configuration."""

from typing import Literal

from infra.section import Section


class RouterSection(Section):
    """Which engine replica takes a request."""

    policy: Literal["least_loaded", "round_robin"] = "least_loaded"
    """`least_loaded`: the replica with the fewest tokens to work off.
    `round_robin`: each in turn."""
