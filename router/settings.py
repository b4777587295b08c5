"""The router's sections of the configuration: routing, admission, tenants."""

from typing import Annotated

from pydantic import Field

from infra.section import Section
from router.types import ANONYMOUS, PolicyName, Priority

Tokens = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]


class CostSection(Section):
    """What `router.policy: cost` weighs, all in prompt tokens that could be computed in
    the same time; see `router/score.py` for the sum."""

    queue_weight: Weight = 1.0
    """Of each prompt token of other requests that the replica has yet to compute."""

    sequence_tokens: Tokens = 32.0
    """Of each sequence that the replica decodes: it takes part of the request's steps,
    about one prompt token's time in each."""

    context_weight: Weight = 0.01
    """Of each token that those sequences attend to."""

    host_weight: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of each prompt token that is loaded from host memory, where 1 is the work of
    computing it."""

    kv_pressure_tokens: Tokens = 2048.0
    """Of a KV cache that the request fills to its last block: what a preemption costs.
    Up to `kv_watermark` it costs nothing, from there on it grows evenly."""

    kv_watermark: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Share of the KV cache in use from which on preemptions are likely."""

    adapter_tokens: Tokens = 512.0
    """Of loading the request's adapter where it has not been loaded yet."""

    session_tokens: Tokens = 128.0
    """Taken off for the replica that had the session's last request."""

    expected_output_tokens: Annotated[int, Field(ge=0)] = 256
    """Output tokens that a request is taken to need room for, where it may make as many
    or more."""


class RouterSection(Section):
    """Which engine replica takes a request."""

    policy: PolicyName = "cost"
    """`cost`: where the least work lies before the first token.
    `prefix`: the longest cached prefix, then the least load.
    `least_loaded`: the replica with the least work.
    `power_of_two`: the less loaded of two taken at random.
    `consistent_hash`: one of two replicas that the prompt's beginning or the session
    names, unless they have much more to do than others; needs no prefix index.
    `round_robin`: each in turn.
    Without a prefix index `cost` and `prefix` do what `consistent_hash` does."""

    cost: CostSection = CostSection()
    """The weights of `cost`; the others compare loads by them too."""

    expected_prefix_s: Annotated[float, Field(gt=0)] = 5.0
    """A prompt counts as cached where it was sent for one to two times as long, before the
    engine itself tells so: requests with the same new prefix find each other."""

    hash_prefix_tokens: Annotated[int, Field(ge=1)] = 512
    """Most leading tokens by which `consistent_hash` takes prompts for related."""

    max_sessions: Annotated[int, Field(ge=0)] = 65536
    """Sessions of a model whose last replica each gateway remembers."""

    report_max_age_s: Annotated[float, Field(gt=0)] = 3.0
    """Engine replicas tell their load about once a second at least. After so long a
    silence a gateway counts its own requests alone."""

    max_explained_requests: Annotated[int, Field(ge=0)] = 1000
    """Latest requests of a model that each gateway can explain (`coterie explain`)."""

    replica_wait_s: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for an engine replica of its model where none is
    ready, as while replicas are replaced. Before a model's first replica is
    ready, requests fail at once."""

    max_resumes: Annotated[int, Field(ge=0)] = 2
    """How often a request whose engine replica dies goes on with another one, from
    where it was. A request that ends one replica after another is likely the cause; replicas
    that fall silent, cut off or standing still, do not count. 0: it never goes on."""


Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class AdmissionSection(Section):
    """How many requests may wait, how long, and what is kept free for whom."""

    max_queued_requests: Annotated[int, Field(ge=0)] = 512
    """Most requests that wait at one gateway for one model. One more is turned
    away at once, with a hint when to come again."""

    max_queue_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time that a request waits beside ready replicas before it is turned away."""

    hold_for_kv_room: bool = True
    """Let a request wait, for at most `max_queue_s`, while no engine replica's KV cache
    can hold its prompt and expected output beside what is there. Never the only one that
    runs at its gateway, nor where the room is not known."""

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
