"""This room's section of the configuration: which drafts an engine verifies."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from infra.busy_scaling import BusyScalingSection
from infra.replica_limits import ReplicaLimits
from infra.section import Section
from router.speculation.types import MAX_TOKENS

DrafterName = Literal["prompt_lookup", "suffix_counts", "draft_model"]
DraftDevice = Literal["cpu", "cuda"]
DraftPrecision = Literal["int8", "full"]
Positive = Annotated[int, Field(ge=1)]


class DraftSection(ReplicaLimits, Section):
    """The small model that drafts, and the replicas that run it for all engines."""

    model: str | None = None
    """Model reference of a Llama-like model, such as `coterie distill` makes one."""

    num_replicas: Positive = 1
    """Draft replicas. An engine asks one of them, and another where that one is gone."""

    min_replicas: Positive | None = None
    """Fewest replicas when scaling in. Default: `num_replicas`."""

    max_replicas: Positive | None = None
    """Most replicas when scaling out. Default: `num_replicas`."""

    autoscaling: BusyScalingSection = BusyScalingSection()
    """When there are more or fewer replicas: by how busy they are. Where drafts do not pay,
    engines do not ask for them, and replicas are idle."""

    device: DraftDevice = "cpu"
    """Where a draft replica computes: `cuda`, on a GPU of its own."""

    precision: DraftPrecision = "int8"
    """What it computes in on CPUs. `int8`: weights and inputs of 8 bits, several times as
    quick, where drafts need not be exact. `full`: float32. On GPUs it is bfloat16."""

    context_tokens: Annotated[int, Field(ge=64)] = 1024
    """Latest tokens of a sequence that it reads."""

    ahead_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    """How far it drafts beyond what it has given, while the engine verifies that. More than 0
    pays where it computes on cores that the engine leaves alone, or on another GPU."""

    kv_cache_memory_bytes: Annotated[int, Field(ge=1024 * 1024)] = 256 * 1024 * 1024
    """Memory for keys and values of a replica; sequences that were not told of for longest
    give way."""

    @model_validator(mode="after")
    def _the_limits_enclose_the_number_of_replicas(self) -> "DraftSection":
        self.check_limits()
        return self


class SpeculationSection(Section):
    """Speculative decoding: drafts that the engine verifies several tokens a step.

    No answer is another for it: at temperature 0 the same tokens, else tokens of the same
    distribution.
    """

    drafters: tuple[DrafterName, ...] = ()
    """Who proposes drafts; of several, each sequence takes whichever promises most. Empty: no
    speculation.
    `prompt_lookup`: what followed the same tokens before, in the sequence itself.
    `suffix_counts`: what followed the same tokens in what this engine has said to anyone. It
    changes when a token comes, never which, but that much of what one tenant was told
    can be told by another from the pace of its own answers.
    `draft_model`: what a small model says, see `draft`."""

    draft: DraftSection = DraftSection()
    """Of the drafter `draft_model`."""

    engine: dict[str, Any] = {}
    """vLLM's own `speculative_config` instead, as it takes it: `{method: ngram, ...}`,
    `draft_model`, `eagle` and others."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 8
    """Longest draft of a sequence."""

    length: Literal["adaptive", "fixed"] = "adaptive"
    """`adaptive`: as many tokens of each draft as make the most tokens a second, by what
    steps have taken and what share of drafts was accepted; none where that is best.
    `fixed`: all that drafters propose."""

    min_match_tokens: Annotated[int, Field(ge=1)] = 2
    """`prompt_lookup`: the fewest tokens that count as the same."""

    memory_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024
    """`suffix_counts`: what its counts may take; the rarest give way."""

    memory_tokens: Annotated[int, Field(ge=100)] = 2000
    """About so many of the latest verified tokens of a kind decide its rate of acceptance."""

    memory_steps: Annotated[int, Field(ge=10)] = 64
    """About so many of the latest steps decide how long a step is taken to be."""

    @property
    def is_on(self) -> bool:
        """Whether anybody proposes drafts."""
        return bool(self.drafters or self.engine)

    @property
    def has_draft_tier(self) -> bool:
        """Whether draft replicas are asked."""
        return "draft_model" in self.drafters

    @model_validator(mode="after")
    def _one_kind_of_speculation(self) -> "SpeculationSection":
        if self.drafters and self.engine:
            raise ValueError("drafters and engine are both given; an engine has one of them")
        if self.has_draft_tier and self.draft.model is None:
            raise ValueError(
                "drafters names draft_model, and draft.model does not say which; name a small "
                "model (`coterie distill` makes one)"
            )
        if self.draft.model is not None and not self.has_draft_tier:
            raise ValueError("draft.model is given; add draft_model to drafters")
        if len(set(self.drafters)) < len(self.drafters):
            raise ValueError(f"drafters {', '.join(self.drafters)}: each is named once")
        return self
