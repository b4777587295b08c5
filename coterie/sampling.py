"""How the next token is chosen: `Sampling`, or the same names as keywords."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters; None and () leave the choice to the cluster.

    Ranges and defaults stand in `coterie/v1/inference.proto`. At most one of
    `json_schema`, `regex`, `grammar`, `choice` and `json_object` may be set:
    the form that the output must take.
    """

    temperature: float | None = None
    """0 chooses the likeliest token each time (greedy)."""
    top_p: float | None = None
    """Only the likeliest tokens whose probabilities add up to this."""
    top_k: int | None = None
    """Only this many of the likeliest tokens; 0 for all."""
    min_p: float | None = None
    """Only tokens at least this fraction as likely as the likeliest."""
    presence_penalty: float | None = None
    """Taken off the logit of a token that the output already has."""
    frequency_penalty: float | None = None
    """Taken off a token's logit once for each time the output has it."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens that the prompt or the output has."""
    seed: int | None = None
    """Makes sampling repeatable on the same engine."""
    stop: str | Sequence[str] = ()
    """Generation ends before any of these strings."""
    stop_token_ids: Sequence[int] = ()
    """Generation ends after any of these tokens."""
    ignore_eos: bool = False
    """Go on past the model's own end-of-sequence token."""
    max_tokens: int | None = None
    """Most output tokens for each output."""
    min_tokens: int | None = None
    """No end of sequence and no stop token before this many."""
    n: int | None = None
    """Outputs made independently from the same prompt."""
    logprobs: int | None = None
    """Logprobs of each output token and of this many alternatives."""
    logit_bias: Mapping[int, float] | None = None
    """Token id to what is added to its logit."""
    allowed_token_ids: Sequence[int] = ()
    """Only these tokens may be chosen."""
    bad_words: Sequence[str] = ()
    """None of these strings may appear."""
    json_schema: str | Mapping[str, Any] | None = None
    """The output is JSON of this schema (a mapping, or JSON text)."""
    regex: str | None = None
    """The whole output matches this regular expression."""
    grammar: str | None = None
    """The output follows this grammar, in EBNF (GBNF) or Lark's form."""
    choice: Sequence[str] = ()
    """The output is one of these strings."""
    json_object: bool = False
    """The output is any JSON object."""
    skip_special_tokens: bool | None = None
    """Leave special tokens out of the text; True unless told otherwise."""
    include_stop: bool = False
    """Give the stop string that ended the output as part of it."""


class SamplingKeywords(TypedDict, total=False):
    """The fields of `Sampling`, as keywords of a call."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    max_tokens: int | None
    min_tokens: int | None
    n: int | None
    logprobs: int | None
    logit_bias: Mapping[int, float] | None
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    choice: Sequence[str]
    json_object: bool
    skip_special_tokens: bool | None
    include_stop: bool


FIELD_NAMES = tuple(field.name for field in dataclasses.fields(Sampling))
_CALL_NAMES = ("model", "timeout_s", "request_id", "sampling")


def sampling_with(base: Sampling | None, **keywords: Unpack[SamplingKeywords]) -> Sampling:
    """`base` with the given fields replaced.

    Raises TypeError for a keyword that is no field, naming the nearest one.
    """
    for name in keywords:
        if name not in FIELD_NAMES:
            raise TypeError(_unknown(name))
    if not keywords:
        return base or Sampling()
    return dataclasses.replace(base or Sampling(), **keywords)


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, (*FIELD_NAMES, *_CALL_NAMES), n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unexpected keyword argument {name!r}{hint}"
