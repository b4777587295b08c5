"""The nouns of routing.

A *candidate* is an engine replica as the router sees it. *Load* is counted in
tokens: prompt tokens still to be prefilled, and for each output being decoded
a fixed number of tokens, since a decoding sequence takes part of every step
for an unknown time.

Worked example: a replica with a prompt of 900 tokens in prefill and 3 outputs
in decode has a load of 900 + 3 * 64 = 1,092 tokens.
"""

from dataclasses import dataclass
from typing import Literal, NewType

ReplicaId = NewType("ReplicaId", str)
TenantId = NewType("TenantId", str)
Priority = Literal["high", "normal", "low"]

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""The first is the highest."""

ANONYMOUS = TenantId("anonymous")
"""The tenant of every request where no API keys are asked for."""

DECODE_LOAD_TOKENS = 64
"""What one decoding sequence counts, in tokens of prefill. A step prefills on
the order of a thousand tokens in the time it decodes a few dozen sequences."""


@dataclass(frozen=True)
class Candidate:
    """One engine replica: what is known of it at the moment of a decision."""

    replica_id: ReplicaId
    load_tokens: int
    num_chosen: int
    """How often it was chosen since it appeared."""


@dataclass(frozen=True)
class Decision:
    """The replica chosen, among how many, and by which policy."""

    replica_id: ReplicaId
    num_candidates: int
    policy: str
