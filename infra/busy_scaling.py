"""The section of a deployment that grows and shrinks by how busy its replicas are."""

from typing import Annotated

from pydantic import Field

from infra.section import Section


class BusyScalingSection(Section):
    """When replicas are added and taken away, between the fewest and the most. The names
    are those of Ray Serve's `autoscaling_config`."""

    target_busy_share: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of their time that replicas are to work, on the average."""

    upscale_delay_s: Annotated[float, Field(ge=0)] = 15.0
    """How long more replicas must be wanted until there are more."""

    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    """How long fewer must be wanted until one goes."""

    look_back_period_s: Annotated[float, Field(gt=0)] = 15.0
    """Over how long the busy share is averaged."""
