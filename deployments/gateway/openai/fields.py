"""Fields that this API does not act on: which are harmless, which are refused, and why.

A refused field passes with a *neutral* value, one that asks for nothing:
`"documents": []`, `"echo": false`. A null is always neutral, and left out of a mapping.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from infra.errors import InvalidArgumentError

_MAX_NAME_CHARS = 64
_INTERNAL = "it is internal to the engine and never taken from clients"
_OLD_TOOLS = "use tools and tool_choice"
_TEXT_ONLY = "only text goes in and out"

# Bookkeeping and hints: the output is the same without them.
IGNORED_FIELDS = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


class Refusal(NamedTuple):
    """Why a field is refused, and the values that it may have all the same."""

    why: str
    neutral_values: tuple[Any, ...] = ()


REFUSED_FIELDS: Mapping[str, Refusal] = {
    "functions": Refusal(_OLD_TOOLS, ([],)),
    "function_call": Refusal(_OLD_TOOLS, ("none", "auto")),
    "web_search_options": Refusal("nothing is searched"),
    "audio": Refusal(_TEXT_ONLY),
    "modalities": Refusal(_TEXT_ONLY, (["text"],)),
    "moderation": Refusal("outputs are not moderated"),
    "reasoning_effort": Refusal("it is not supported", ("none",)),
    "thinking_token_budget": Refusal("it is not supported"),
    "include_reasoning": Refusal("reasoning is not told apart from the answer", (True,)),
    "verbosity": Refusal("it is not supported; ask for it in a message", ("medium",)),
    "echo": Refusal("the prompt is not given back", (False,)),
    "suffix": Refusal("text cannot be inserted before a suffix", ("",)),
    "use_beam_search": Refusal("beam search is not supported; use n", (False,)),
    "length_penalty": Refusal("it needs beam search", (1.0,)),
    "spaces_between_special_tokens": Refusal("it is not supported", (True,)),
    "truncate_prompt_tokens": Refusal("a prompt is never cut; shorten it"),
    "truncation_side": Refusal("a prompt is never cut; shorten it"),
    "prompt_logprobs": Refusal("logprobs are given for output tokens alone"),
    "logprob_token_ids": Refusal("logprobs are given for the likeliest tokens", ([],)),
    "return_tokens_as_token_ids": Refusal("use return_token_ids", (False,)),
    "return_token_offsets": Refusal("it is not supported", (False,)),
    "return_prompt_text": Refusal("the prompt is not given back", (False,)),
    "repetition_detection": Refusal("it is not supported"),
    "priority": Refusal("send it as the header x-priority", (0,)),
    "request_id": Refusal("send it as the header x-request-id"),
    "session_id": Refusal("send it as the header x-session-id"),
    "guided_decoding_backend": Refusal(_INTERNAL),
    "guided_whitespace_pattern": Refusal("it is not supported"),
    "documents": Refusal("put them into a message", ([],)),
    "chat_template": Refusal(_INTERNAL),
    "chat_template_kwargs": Refusal(_INTERNAL, ({},)),
    "mm_processor_kwargs": Refusal(_INTERNAL, ({},)),
    "media_io_kwargs": Refusal(_INTERNAL, ({},)),
    "prompt_embeds": Refusal(_INTERNAL),
    "cache_salt": Refusal(_INTERNAL),
    "kv_transfer_params": Refusal(_INTERNAL),
    "ec_transfer_params": Refusal(_INTERNAL),
    "vllm_xargs": Refusal(_INTERNAL, ({},)),
}


def drop_inactive(
    given: Mapping[str, msgspec.Raw], supported: frozenset[str], refused: Mapping[str, Refusal]
) -> dict[str, msgspec.Raw]:
    """The supported fields of a request, without harmless and neutral ones.

    Raises InvalidArgumentError for a field that is refused or not known.
    """
    kept = {}
    for name, value in given.items():
        if name in supported:
            kept[name] = value
        elif name in refused:
            _check_neutral(name, value, refused[name])
        elif name not in IGNORED_FIELDS:
            raise _unknown(name, supported | IGNORED_FIELDS)
    return kept


def _check_neutral(name: str, raw: msgspec.Raw, refusal: Refusal) -> None:
    value = msgspec.json.decode(raw)
    if isinstance(value, dict):
        value = {key: v for key, v in value.items() if v is not None}
    if value is not None and value not in refusal.neutral_values:
        raise InvalidArgumentError(f"leave out {name}: {refusal.why}", param=name)


def _unknown(name: str, known: frozenset[str]) -> InvalidArgumentError:
    name = name[:_MAX_NAME_CHARS]
    nearest = get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; leave it out"
    return InvalidArgumentError(f"there is no field {name}{hint}", param=name)
