"""What a request may ask for: pure checks that say what to change."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from deployments.types import Sampling
from infra.errors import InvalidArgumentError, PromptTooLongError, field

MAX_STOPS = 64
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIASES = 1024
MAX_BAD_WORDS = 64
MAX_FORM_CHARS = 64 * 1024
MAX_STRING_CHARS = 1024
"""Of a stop string, a bad word, and one of the choices of a structured output."""
MAX_CHOICES = 1024
MAX_SCHEMA_DEPTH = 256
"""Of objects and lists one inside the other; Python itself stops at some 1000."""
MAX_TEXT_CHARS = 4 * 1024 * 1024
"""Of all of a conversation's turns, and of a prompt."""
MAX_TOKEN_IDS = 1024 * 1024
"""Of all prompts of a request together, and of a text that is asked for."""
MAX_TENSORS = 64
MAX_PARAMETERS = 64
MAX_SAMPLING_BYTES = 512 * 1024
"""Of the JSON text of sampling parameters."""
MAX_STREAM_REQUESTS = 256
"""Open at a time on one stream of requests; it is not read further until one has ended."""
MAX_STREAMS = 1024
"""Open at a time on one gRPC connection; the client's library holds further ones back."""
MAX_METADATA_BYTES = 16 * 1024
"""Of a call's metadata, or of the line and headers of an HTTP request."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Limits(NamedTuple):
    """What the model and the gateway allow."""

    max_model_len: int
    vocab_size: int
    max_outputs: int
    max_logprobs: int


class _Range(NamedTuple):
    is_ok: Callable[[float], bool]
    words: str


_RANGES = {
    "temperature": _Range(lambda v: 0 <= v <= 100, "between 0 and 100"),
    "top_p": _Range(lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "top_k": _Range(lambda v: v >= 0, "0 (all) or more"),
    "min_p": _Range(lambda v: 0 <= v <= 1, "between 0 and 1"),
    "presence_penalty": _Range(lambda v: -2 <= v <= 2, "between -2 and 2"),
    "frequency_penalty": _Range(lambda v: -2 <= v <= 2, "between -2 and 2"),
    "repetition_penalty": _Range(lambda v: 0 < v <= 100, "above 0 and at most 100"),
    "seed": _Range(lambda v: -(2**63) <= v < 2**63, "a signed 64-bit number"),
    "max_tokens": _Range(lambda v: v >= 1, "1 or more"),
    "min_tokens": _Range(lambda v: v >= 0, "0 or more"),
    "n": _Range(lambda v: v >= 1, "1 or more"),
    "logprobs": _Range(lambda v: v >= 0, "0 or more"),
}


def check_request_id(request_id: str) -> None:
    """At most 128 printable ASCII characters, without spaces."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidArgumentError(
            f"{field('request_id')} must be 1 to 128 printable ASCII characters without spaces",
            param="request_id",
        )


def check_sampling(sampling: Sampling, limits: Limits) -> None:
    """Ranges and sizes. Raises InvalidArgumentError that names the field."""
    for name, allowed in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not allowed.is_ok(value):
            raise InvalidArgumentError(
                f"{field(name)} is {value:g}; it must be {allowed.words}", param=name
            )
    _at_most(sampling.n, limits.max_outputs, "n")
    _at_most(sampling.logprobs or 0, limits.max_logprobs, "logprobs")
    _check_sizes(sampling)
    _check_ids(sampling, limits.vocab_size)
    if sampling.temperature == 0 and sampling.n > 1:
        raise InvalidArgumentError(
            f"{field('n')} is {sampling.n} with {field('temperature')} 0, so all outputs would "
            f"be equal; set {field('n')} to 1 or {field('temperature')} above 0",
            param="n",
        )


def check_text_size(num_chars: int, param: str) -> None:
    """At most `MAX_TEXT_CHARS`: tokenizing more would take seconds."""
    if num_chars > MAX_TEXT_CHARS:
        raise InvalidArgumentError(
            f"{field(param)} has over {MAX_TEXT_CHARS} characters", param=param
        )


def check_num_prompts(num_prompts: int, max_prompts: int) -> None:
    """No more than the gateway takes in one request."""
    if num_prompts > max_prompts:
        raise InvalidArgumentError(
            f"{field('prompt')} has {num_prompts} prompts; at most {max_prompts} are allowed: "
            "send several requests, or have the operator raise gateway.max_prompts",
            param="prompt",
        )


def fit_to_context(num_prompt_tokens: int, sampling: Sampling, max_model_len: int) -> Sampling:
    """The same sampling with `max_tokens` set to what the context leaves, if unset.

    Raises PromptTooLongError where prompt and asked-for output do not fit,
    InvalidArgumentError for an empty prompt or min_tokens above max_tokens.
    """
    if num_prompt_tokens == 0:
        raise InvalidArgumentError("the prompt has no tokens; give some text", param="prompt")
    room = max_model_len - num_prompt_tokens
    if room < 1:
        raise PromptTooLongError(
            f"this model's maximum context length is {max_model_len} tokens, output included, "
            f"and the prompt has {num_prompt_tokens}; shorten the prompt to at most "
            f"{max_model_len - 1}",
            param="prompt",
        )
    wanted = sampling.max_tokens
    if wanted is not None and wanted > room:
        raise PromptTooLongError(
            f"this model's maximum context length is {max_model_len} tokens, less than the "
            f"prompt's {num_prompt_tokens} and {wanted} of {field('max_tokens')}; set "
            f"{field('max_tokens')} to at most {room} or shorten the prompt",
            param="max_tokens",
        )
    fitted = room if wanted is None else wanted
    if sampling.min_tokens > fitted:
        raise InvalidArgumentError(
            f"{field('min_tokens')} is {sampling.min_tokens}, above the {fitted} that may be "
            "made",
            param="min_tokens",
        )
    return msgspec.structs.replace(sampling, max_tokens=fitted)


def check_count(count: int, limit: int, param: str) -> None:
    """A repeated field has at most so many entries."""
    if count > limit:
        raise InvalidArgumentError(f"{field(param)} has over {limit} entries", param=param)


def check_token_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Each id names a token of the model."""
    if token_ids and not (0 <= min(token_ids) and max(token_ids) < vocab_size):
        raise InvalidArgumentError(
            f"{field(param)} has a token id outside 0 to {vocab_size - 1}, the model's "
            "vocabulary",
            param=param,
        )


def _at_most(value: int, limit: int, name: str) -> None:
    if value > limit:
        raise InvalidArgumentError(
            f"{field(name)} is {value}; at most {limit} is allowed", param=name
        )


def _check_sizes(sampling: Sampling) -> None:
    for name, limit in (
        ("stop", MAX_STOPS),
        ("stop_token_ids", MAX_STOP_TOKEN_IDS),
        ("logit_bias", MAX_LOGIT_BIASES),
        ("bad_words", MAX_BAD_WORDS),
    ):
        if len(getattr(sampling, name)) > limit:
            raise InvalidArgumentError(f"{field(name)} has over {limit} entries", param=name)
    _check_string_sizes(sampling)
    for name in ("stop", "bad_words"):
        if "" in getattr(sampling, name):
            raise InvalidArgumentError(f"{field(name)} has an empty string", param=name)
    if any(not -100 <= bias <= 100 for bias in sampling.logit_bias.values()):
        raise InvalidArgumentError(
            f"{field('logit_bias')} has a value outside -100 to 100", param="logit_bias"
        )
    form = sampling.structured_output
    if form is not None and _form_chars(form) > MAX_FORM_CHARS:
        raise InvalidArgumentError(
            f"{field('structured_output')} is over {MAX_FORM_CHARS} characters",
            param="structured_output",
        )


def _check_string_sizes(sampling: Sampling) -> None:
    form = sampling.structured_output
    choices = (form.choice or ()) if form is not None else ()
    if len(choices) > MAX_CHOICES:
        raise InvalidArgumentError(
            f"{field('structured_output')} has over {MAX_CHOICES} choices",
            param="structured_output",
        )
    for name, strings in (
        ("stop", sampling.stop),
        ("bad_words", sampling.bad_words),
        ("structured_output", choices),
    ):
        if any(len(string) > MAX_STRING_CHARS for string in strings):
            raise InvalidArgumentError(
                f"{field(name)} has a string of over {MAX_STRING_CHARS} characters", param=name
            )


def _form_chars(form: msgspec.Struct) -> int:
    values = msgspec.structs.astuple(form)
    return sum(len("".join(v) if isinstance(v, tuple) else str(v)) for v in values)


def _check_ids(sampling: Sampling, vocab_size: int) -> None:
    check_token_ids(sampling.stop_token_ids, vocab_size, "stop_token_ids")
    if len(sampling.allowed_token_ids) > vocab_size:
        raise InvalidArgumentError(
            f"{field('allowed_token_ids')} has over {vocab_size} entries, more than the model "
            "has tokens",
            param="allowed_token_ids",
        )
    check_token_ids(sampling.allowed_token_ids, vocab_size, "allowed_token_ids")
    check_token_ids(tuple(sampling.logit_bias), vocab_size, "logit_bias")
