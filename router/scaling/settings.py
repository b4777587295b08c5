"""The section of a model that says when there are more engine replicas or fewer."""

from typing import Annotated

from pydantic import Field

from infra.section import Section

Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class EngineScalingSection(Section):
    """When engine replicas are added and taken away, between `min_replicas` and
    `max_replicas`: as many as are wanted for each target. Where a name is Ray Serve's, it means
    the same as in its `autoscaling_config`."""

    target_occupancy: Share = 0.7
    """Sequences under way and waiting, as a share of the `max_num_seqs` of all replicas,
    that is aimed at."""

    target_prefill_share: Share = 0.7
    """Share of the time that engines may take to compute prompts. What is left is the room
    in which prompts that come together do not wait."""

    target_wait_s: PositiveSeconds = 1.0
    """How long prompts may wait for others: about what requests wait for their first token,
    beyond what their own prompts take."""

    target_kv_usage: Share = 0.75
    """Share of the KV caches in use that is aimed at. Beyond it sequences are
    preempted."""

    target_tpot_s: PositiveSeconds | None = None
    """How long an engine may take from token to token of a sequence (TPOT), on the average.
    Default: as long as it takes."""

    look_ahead: bool = True
    """Count with what the load will be when a replica that is started now is ready,
    if it goes on to grow as it does."""

    upscale_delay_s: Seconds = 5.0
    """How long more replicas must be wanted until there are more."""

    downscale_delay_s: Seconds = 300.0
    """How long fewer must be wanted until one goes."""

    downscale_to_zero_delay_s: Seconds = 900.0
    """How long nobody must have asked until the last one goes, where that may be."""

    look_back_period_s: PositiveSeconds = 10.0
    """Over how long load is averaged."""
