"""This room's section of the configuration: dispatch to copies of experts."""

from typing import Annotated, Literal

from pydantic import Field

from infra.section import Section

PolicyName = Literal["activated_experts", "token_balance", "least_loaded", "static"]

Duration = Annotated[float, Field(gt=0)]


class DispatchSection(Section):
    """Which copy of an expert computes a token."""

    policy: PolicyName = "activated_experts"
    """`activated_experts`: such that the slowest expert host is done as early as possible,
    by the costs of touching an expert's weights and of each token.
    `token_balance`: as many tokens for each host as for others.
    `least_loaded`: each expert, whole, to the host with the least work.
    `static`: always the first copy."""

    fixed_s: Duration = 200e-6
    """Seconds that a call of an expert host takes beside all experts' work, as long as
    too few calls have been measured."""

    per_expert_s: Duration = 20e-6
    """Likewise, seconds for each different expert of a call: its weights are read."""

    per_pair_s: Duration = 2e-6
    """Likewise, seconds for each token of each expert."""

    memory_calls: Annotated[int, Field(ge=10)] = 500
    """About so many of a host's latest calls decide what it is taken to need."""

    late_s: Duration = 0.4
    """A host from which nothing has come for so many seconds, and eight times what its
    work was predicted to take, is waited for no longer: others compute what it was asked.
    It is asked again once it has answered all the same."""

    overlap_shared: bool = True
    """Whether the engine computes a layer's shared experts while it waits for hosts, not
    before. Better not where hosts compute on the engine's own cores: then each step of the
    one waits for a thread that the other holds up."""

    checksums: bool = False
    """Whether what engines and hosts send each other has checksums, against memory that
    goes bad."""
