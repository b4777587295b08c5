"""This room's section of the configuration: where routed experts live."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from infra.busy_scaling import BusyScalingSection
from infra.section import Section

AlgorithmName = Literal["cost", "eplb"]
Precision = Literal["full", "int8"]
HostDevice = Literal["cpu", "cuda"]

Positive = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class RebalanceSection(Section):
    """When copies of experts move between hosts, and where to; see
    `experts/placement/`."""

    algorithm: AlgorithmName = "cost"
    """`cost`: even out the hosts' time, from where the copies are, by few moves; hosts
    may differ in speed and size.
    `eplb`: even out the tokens anew each time, as DeepSeek's EPLB does."""

    min_copies: Positive = 1
    """Copies of each expert on different hosts, as far as there are slots for it: with 2
    any host may die and no expert is missing."""

    window_s: PositiveSeconds = 60.0
    """Over how long the load of the experts is averaged: what was counted so long ago
    weighs a third."""

    min_gain: Annotated[float, Field(gt=0)] = 0.1
    """Least fall of slowest over mean host time for which copies are moved at all, where
    1.0 is as even as can be. It should be twice what chance makes of the load in
    `window_s`."""

    min_gain_per_move: Annotated[float, Field(ge=0)] = 0.002
    """What each copy moved must bring of that in its layer, on the average (`cost` alone)."""

    min_interval_s: Annotated[float, Field(ge=0)] = 60.0
    """How long after a rebalance the next one may begin. When a host comes, leaves or dies
    it begins at once."""

    max_moves_per_host: Positive = 8
    """Copies that a host takes at the same time. While it does, it computes none of the
    experts that were in their slots."""

    split_tokens: Positive | None = None
    """Tokens of one expert in one step from which on the dispatcher sends them to more than
    one copy; each of those then costs an activation. Default: never."""


class ExpertsSection(Section):
    """Where the routed experts of mixture-of-experts models are computed."""

    placement: Literal["engine", "service"] = "engine"
    """`engine`: in the engine's own processes, as vLLM does it.
    `service`: on expert hosts, which scale and fail one at a time."""

    num_hosts: Positive = 2
    """Expert hosts of a model to begin with."""

    min_hosts: Positive | None = None
    """Fewest hosts when scaling in. Default: `num_hosts`."""

    max_hosts: Positive | None = None
    """Most hosts when scaling out. Default: `num_hosts`."""

    autoscaling: BusyScalingSection = BusyScalingSection()
    """When there are more or fewer hosts. They need idle time, since the slowest of them ends a
    layer's step."""

    slots_per_host: Positive | None = None
    """Experts of each layer that a host has memory for. Default: by `copies_factor`."""

    precision: Precision = "full"
    """What hosts keep weights in. `full`: the engine's dtype, with the engine's results.
    `int8`: half the memory of bfloat16, with results about 1% off."""

    host_device: HostDevice = "cpu"
    """What hosts compute on. `cuda`: each host has a GPU of its own; what engines send goes
    through the memory of the nodes. Written for it and not yet run on one."""

    copies_factor: Annotated[float, Field(ge=1)] = 1.25
    """Slots of the fewest hosts together, for each expert of the model. At 1.0 there is no
    room to move anything while all experts stay in use."""

    rebalance: RebalanceSection = RebalanceSection()
    """When and how copies move."""

    @model_validator(mode="after")
    def _the_limits_enclose_the_number_of_hosts(self) -> "ExpertsSection":
        if not self.fewest <= self.num_hosts <= self.most:
            raise ValueError("write min_hosts <= num_hosts <= max_hosts")
        return self

    @model_validator(mode="after")
    def _int8_is_for_cpus(self) -> "ExpertsSection":
        if self.precision == "int8" and self.host_device != "cpu":
            raise ValueError(
                "precision int8 is computed on CPUs alone; set host_device to cpu, or "
                "precision to full"
            )
        return self

    @property
    def fewest(self) -> int:
        """The limit when scaling in."""
        return self.num_hosts if self.min_hosts is None else self.min_hosts

    @property
    def most(self) -> int:
        """The limit when scaling out."""
        return self.num_hosts if self.max_hosts is None else self.max_hosts

    def num_slots(self, num_experts: int) -> int:
        """Slots of each host, in each layer; never more than there are experts."""
        if self.slots_per_host is not None:
            return min(self.slots_per_host, num_experts)
        return min(num_experts, math.ceil(self.copies_factor * num_experts / self.fewest))
