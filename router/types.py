"""The nouns of routing.

A *candidate* is an engine replica as the router sees it at the moment of a decision.
Everything is counted in tokens, so that it can be weighed against each other (see
`router.score`): what a replica has to do (*load*), what its KV cache has room for, how
much of the prompt it has cached already (*usable prefix*).

Worked example: a replica works on a prompt of 900 tokens, of which it had 300 cached,
and decodes 3 outputs that have come to 100 tokens each, after prompts of 50. Its load is
600 queued prefill tokens, 4 sequences (the first will decode too) and
900 + 3 * (50 + 100) = 1,350 tokens of context.
"""

from typing import Literal, NamedTuple, NewType

import msgspec

ReplicaId = NewType("ReplicaId", str)
TenantId = NewType("TenantId", str)
SessionKey = NewType("SessionKey", int)
"""64 bits that stand for a tenant's session; see `router.sessions.session_key`."""

Priority = Literal["high", "normal", "low"]
PolicyName = Literal[
    "cost", "prefix", "least_loaded", "power_of_two", "consistent_hash", "round_robin"
]
ReplicaState = Literal["ready", "draining", "set_aside", "away"]
"""`set_aside`: it has turned a call away. `away`: no link stands. Only a ready one may be
chosen."""

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""The first is the highest."""

ANONYMOUS = TenantId("anonymous")
"""The tenant of every request where no API keys are asked for."""


class UsablePrefix(msgspec.Struct, frozen=True):
    """Leading tokens of a prompt that a replica need not compute again.

    `host_tokens` counts from the prompt's start as well: where it is larger than
    `device_tokens`, what lies between comes from host memory. Of a replica with several
    data-parallel ranks both are the best of any rank, and `rank_tokens` has each one's
    `device_tokens`.
    """

    device_tokens: int = 0
    host_tokens: int = 0
    rank_tokens: dict[int, int] = {}

    @property
    def longest_tokens(self) -> int:
        """With all tiers."""
        return max(self.device_tokens, self.host_tokens)


NO_PREFIX = UsablePrefix()


class Load(msgspec.Struct, frozen=True):
    """Work that a replica has: prompt tokens that it has yet to compute, sequences, and
    the tokens that these attend to (prompts, and outputs so far)."""

    queued_prefill_tokens: int = 0
    num_sequences: int = 0
    context_tokens: int = 0

    def plus(self, other: "Load") -> "Load":
        """Both together."""
        return Load(
            self.queued_prefill_tokens + other.queued_prefill_tokens,
            self.num_sequences + other.num_sequences,
            self.context_tokens + other.context_tokens,
        )

    def minus(self, other: "Load") -> "Load":
        """What is left without the other, which is a part of it."""
        return Load(
            self.queued_prefill_tokens - other.queued_prefill_tokens,
            self.num_sequences - other.num_sequences,
            self.context_tokens - other.context_tokens,
        )


NO_LOAD = Load()


class KvRoom(msgspec.Struct, frozen=True):
    """Room of a KV cache, in tokens; blocks kept only for their prefix count as free."""

    free_tokens: int
    total_tokens: int


class DraftCounts(msgspec.Struct, frozen=True):
    """What has become of an engine's drafts, since its start."""

    num_drafts: int = 0
    num_tokens: int = 0
    """That the engine has verified."""
    num_accepted: int = 0

    def plus(self, other: "DraftCounts") -> "DraftCounts":
        """Both."""
        return DraftCounts(
            self.num_drafts + other.num_drafts,
            self.num_tokens + other.num_tokens,
            self.num_accepted + other.num_accepted,
        )


class LoadReport(msgspec.Struct, frozen=True):
    """What an engine replica says of itself to one gateway.

    `total` is over all gateways, and `own` the part of it that came from the gateway
    which gets this report: what others have is the difference, however late it comes.
    `num_running` and `num_waiting` are vLLM's own counts of sequences, as of its last step.
    `tokens_per_step` is what a sequence gets of a step, more than 1 where drafts are
    accepted, on the average of the latest steps.
    """

    total: Load = NO_LOAD
    own: Load = NO_LOAD
    kv: KvRoom | None = None
    adapters: tuple[str, ...] = ()
    num_running: int = 0
    num_waiting: int = 0
    is_draining: bool = False
    drafts: DraftCounts = DraftCounts()
    tokens_per_step: float = 1.0


class HashKeys(NamedTuple):
    """The two keys of a prompt's consistent hashing: see `router.consistent_hash`."""

    near: int
    far: int


class RoutedRequest(msgspec.Struct, frozen=True):
    """What the router knows of a request.

    `num_sequences` is its number of outputs, 0 where nothing is decoded.
    `num_expected_tokens` counts the output tokens expected, of all outputs together.
    """

    num_prompt_tokens: int
    num_sequences: int = 1
    num_expected_tokens: int = 0
    adapter: str | None = None
    session: SessionKey | None = None
    hash_keys: HashKeys | None = None


class Candidate(msgspec.Struct, frozen=True):
    """One engine replica: what is known of it at the moment of a decision.

    `kv` is None where it is not known. `is_load_fresh` says that its latest report is
    not too old; without one only this gateway's own requests are counted in `load`.
    """

    replica_id: ReplicaId
    state: ReplicaState = "ready"
    prefix: UsablePrefix = NO_PREFIX
    load: Load = NO_LOAD
    kv: KvRoom | None = None
    has_adapter: bool = True
    is_last_of_session: bool = False
    num_chosen: int = 0
    """How often it was chosen since it appeared."""
    is_load_fresh: bool = False
    tokens_per_step: float = 1.0
    """Of each sequence that it decodes."""


Score = tuple[float, ...]
"""Lower is better; compared from the first number on."""


class Decision(msgspec.Struct, frozen=True):
    """The replica chosen, and everything that it was chosen by.

    `applied` is the policy that decided: another than `policy`, the one that is
    configured, where that needs the prefix index and there is none at the moment.
    `scores` has one for each candidate, None where the filter left it out.
    """

    chosen: Candidate
    policy: PolicyName
    applied: PolicyName
    request: RoutedRequest
    candidates: tuple[Candidate, ...]
    scores: tuple[Score | None, ...]  # [num_candidates]

    @property
    def replica_id(self) -> ReplicaId:
        """Of the replica chosen."""
        return self.chosen.replica_id

    @property
    def num_candidates(self) -> int:
        """Those left out by the filter are counted too."""
        return len(self.candidates)

    @property
    def num_expected_cached_tokens(self) -> int:
        """Prompt tokens that the replica should find cached."""
        return min(self.chosen.prefix.longest_tokens, self.request.num_prompt_tokens)
