"""The router's sections of the configuration: routing, admission, tenants."""

from typing import Annotated, Literal

from pydantic import Field

from infra.section import Section
from router.types import ANONYMOUS, Priority


class RouterSection(Section):
    """Which engine replica takes a request."""

    policy: Literal["least_loaded", "round_robin"] = "least_loaded"
    """`least_loaded`: the replica with the fewest tokens to work off.
    `round_robin`: each in turn."""

    replica_wait_s: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for an engine replica of its model where none is
    ready, as while replicas are replaced. Before a model's first replica is
    ready, requests fail at once."""

    max_resumes: Annotated[int, Field(ge=0)] = 2
    """How often a request whose engine replica dies goes on with another one, from
    where it was. A request that ends one replica after another is likely the cause."""


Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class AdmissionSection(Section):
    """How many requests may wait, how long, and what is kept free for whom."""

    max_queued_requests: Annotated[int, Field(ge=0)] = 512
    """Most requests that wait at one gateway for one model. One more is turned
    away at once, with a hint when to come again."""

    max_queue_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time that a request waits before it is turned away."""

    low_priority_share: Share = 0.75
    """Share of a model's places that requests of low priority may take; the rest
    stays free, so that other requests begin at once."""

    reserved_share: Share = 0.1
    """Share of a model's places kept for tenants that have less than their fair
    share of them. It has no effect where there is only one tenant."""


class TenantSection(Section):
    """Who asks: what a tenant may use. Limits count over all models; where there
    are several gateway replicas, each grants its part of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name in keys, usage records and metrics."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of a full cluster, in relation to other tenants' weights."""

    max_concurrent_requests: Positive | None = None
    """Most requests that run at the same time; more of them wait. Default: no limit."""

    max_queued_requests: Annotated[int, Field(ge=0)] = 128
    """Most requests that wait; one more is turned away at once."""

    tokens_per_minute: Positive | None = None
    """Tokens of prompts and outputs together. One minute's worth may be used at
    once. Default: no limit."""

    requests_per_minute: Positive | None = None
    """Requests begun; one minute's worth may come at once. Default: no limit."""

    max_priority: Priority = "normal"
    """The highest priority it may ask for; a higher one is taken as this one."""

    cache_group: str | None = None
    """Tenants of the same group share cached prefixes of their prompts, and so
    can find out by timing what the others asked. Default: each has its own."""


ANONYMOUS_TENANT = TenantSection(name=ANONYMOUS, max_queued_requests=2**31, max_priority="high")
"""Who asks where no API keys are required: bounded by `AdmissionSection` alone."""
