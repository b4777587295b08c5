"""Builders of routing's nouns, with defaults for all but the point of a test."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from router.ledger import Ledger
from router.pick import pick
from router.settings import CostSection, RouterSection
from router.types import (
    Candidate,
    Decision,
    HashKeys,
    KvRoom,
    Load,
    PolicyName,
    ReplicaId,
    ReplicaState,
    RoutedRequest,
    UsablePrefix,
)

A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")
WEIGHTS = CostSection()


def request(num_prompt_tokens: int = 1000, **fields: Any) -> RoutedRequest:
    """One of a prompt of a thousand tokens, which knows its keys."""
    defaults = {"hash_keys": HashKeys(1, 2)}
    return RoutedRequest(num_prompt_tokens=num_prompt_tokens, **(defaults | fields))


def candidate(
    replica_id: ReplicaId = A, *, prefix: int = 0, queue: int = 0, running: int = 0, **more: Any
) -> Candidate:
    """A ready replica with nothing to do and nothing cached."""
    defaults = {"prefix": UsablePrefix(prefix), "load": Load(queue, running)}
    return Candidate(replica_id, **(defaults | more))


def picked(
    candidates: Sequence[Candidate],
    policy: PolicyName = "cost",
    asked: RoutedRequest | None = None,
    weights: CostSection = WEIGHTS,
    seed: int = 0,
) -> Decision:
    """The decision between them."""
    return pick(candidates, asked or request(), weights, Random(seed), policy)


def ledger(
    policy: PolicyName = "least_loaded", *replica_ids: ReplicaId, **section: Any
) -> Ledger:
    """With these replicas ready, by default two."""
    built = Ledger(RouterSection(policy=policy, **section), Random(0))
    built.set_replicas(all_ready(*(replica_ids or (A, B))))
    return built


def all_ready(*replica_ids: ReplicaId) -> Mapping[ReplicaId, ReplicaState]:
    """Those, and no others."""
    return dict.fromkeys(replica_ids, "ready")


TOKENS = st.integers(0, 4000)


@st.composite
def candidates(draw: st.DrawFn, min_size: int = 1) -> list[Candidate]:
    """Up to six, in any state, with little room or much."""
    ids = [ReplicaId(name) for name in "abcdef"[: draw(st.integers(min_size, 6))]]
    return [draw(_candidates(replica_id)) for replica_id in ids]


def _candidates(replica_id: ReplicaId) -> st.SearchStrategy[Candidate]:
    states: list[ReplicaState] = ["ready", "ready", "draining", "set_aside", "away"]
    room = st.builds(KvRoom, TOKENS, st.just(4000))
    return st.builds(
        Candidate,
        replica_id=st.just(replica_id),
        state=st.sampled_from(states),
        prefix=st.builds(UsablePrefix, st.integers(0, 1000), st.integers(0, 1000)),
        load=st.builds(Load, TOKENS, st.integers(0, 20), TOKENS),
        kv=st.none() | room,
        has_adapter=st.booleans(),
        is_last_of_session=st.booleans(),
        num_chosen=st.integers(0, 3),
        is_load_fresh=st.booleans(),
    )
