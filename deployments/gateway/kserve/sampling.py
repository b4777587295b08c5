"""Sampling parameters as a JSON text of vLLM's names, as Triton's vLLM backend takes them."""

from collections.abc import Mapping

import msgspec

from deployments.gateway.checks import MAX_SAMPLING_BYTES
from deployments.gateway.openai.request import Count, GenerationRequest, to_sampling
from deployments.types import Sampling
from infra.errors import InvalidArgumentError
from infra.section_file import nearest

PARAM = "sampling_parameters"
# vLLM's, and so Triton's.
DEFAULT_MAX_TOKENS = 16
_MAX_NAME_CHARS = 64
_ALL_TOKENS = -1
_INTERNAL = "it is internal to the engine and never taken from clients"

SAMPLING_NAMES = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "structured_outputs",
        "temperature",
        "top_k",
        "top_p",
    }
)
_REFUSED: Mapping[str, str] = {
    "best_of": "use n alone",
    "detokenize": _INTERNAL,
    "extra_args": _INTERNAL,
    "flat_logprobs": _INTERNAL,
    "length_penalty": "it needs beam search, which is not supported",
    "logits_processors": _INTERNAL,
    "logprob_token_ids": "logprobs are given for the likeliest tokens",
    "lora_name": "an adapter is a model here; name it as the request's model",
    "output_kind": _INTERNAL,
    "output_text_buffer_length": _INTERNAL,
    "prompt_logprobs": "logprobs are given for output tokens alone",
    "repetition_detection": "it is not supported",
    "routed_experts_prompt_start": _INTERNAL,
    "skip_clone": _INTERNAL,
    "skip_reading_prefix_cache": _INTERNAL,
    "spaces_between_special_tokens": "it is not supported",
    "stream_interval": _INTERNAL,
    "thinking_token_budget": "it is not supported",
    "trace_decode_token_ids": _INTERNAL,
    "truncate_prompt_tokens": "a prompt is never cut; shorten it",
    "use_beam_search": "beam search is not supported; use n",
}


class _Given(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of `SAMPLING_NAMES`; `top_k` may be -1 for all tokens."""

    logprobs: Count | None = None


# Triton's own clients write numbers as strings: {"temperature": "0"}.
_DECODER = msgspec.json.Decoder(_Given, strict=False)


def decode_sampling(text: bytes, *, needs_logprobs: bool) -> Sampling:
    """Sampling of a JSON object; empty text is an empty object.

    With `needs_logprobs` those of the output tokens are asked for in any case.
    Raises InvalidArgumentError that names the parameter at fault.
    """
    if len(text) > MAX_SAMPLING_BYTES:
        raise InvalidArgumentError(f"{PARAM} is over {MAX_SAMPLING_BYTES} bytes", param=PARAM)
    try:
        given = msgspec.json.decode(text or b"{}", type=dict[str, msgspec.Raw])
        _check_names(given)
        found = _DECODER.decode(text or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        words = str(error).replace("`", "")[:300]
        raise InvalidArgumentError(f"{PARAM} cannot be read: {words}", param=PARAM) from error
    if found.top_k == _ALL_TOKENS:
        found = msgspec.structs.replace(found, top_k=0)
    return to_sampling(
        found,
        max_tokens=DEFAULT_MAX_TOKENS if found.max_tokens is None else found.max_tokens,
        num_logprobs=0 if found.logprobs is None and needs_logprobs else found.logprobs,
    )


def _check_names(given: Mapping[str, msgspec.Raw]) -> None:
    for name in given.keys() - SAMPLING_NAMES:
        short = name[:_MAX_NAME_CHARS]
        if why := _REFUSED.get(name):
            raise InvalidArgumentError(f"leave out {name} of {PARAM}: {why}", param=name)
        if name.startswith("_"):
            raise InvalidArgumentError(
                f"leave out {short} of {PARAM}: {_INTERNAL}", param=short
            )
        close = nearest(short, SAMPLING_NAMES)
        hint = f"; did you mean {close}?" if close else "; leave it out"
        raise InvalidArgumentError(f"{PARAM} has no parameter {short}{hint}", param=short)
