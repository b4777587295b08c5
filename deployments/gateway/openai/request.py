"""What chat and completions requests have in common: fields and their meaning."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec

from deployments.gateway.openai.forms import ResponseFormat, StructuredOutputs, to_form
from deployments.gateway.openai.response import UsageIn
from deployments.types import CallOptions, Sampling
from infra.errors import InvalidArgumentError

# Bounds keep numbers printable; the real ranges are `checks`'.
Count = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`include_obfuscation` asks for padding only, and is ignored;
    `continuous_usage_stats` is vLLM's addition."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class BodyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as a JSON body. `param_names` maps the service's names of fields to its."""

    param_names: ClassVar[Mapping[str, str]] = {}

    prompt_cache_key: Any = None

    def in_session(self, options: CallOptions) -> CallOptions:
        """The options with the session that the body names, unless a header names one."""
        key = self.prompt_cache_key
        if options.session or not key or not isinstance(key, str):
            return options
        return msgspec.structs.replace(options, session=key)


class GenerationRequest(BodyRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shared fields; OpenAI's first, then those that vLLM adds to them.

    None means what leaving the field out means.
    """

    param_names: ClassVar[Mapping[str, str]] = {
        "structured_output": "response_format",
        "include_stop": "include_stop_str_in_output",
    }

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat | None = None

    top_k: Count | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[Count] | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    allowed_token_ids: list[Count] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    return_token_ids: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None
    guided_json_object: bool | None = None

    @property
    def num_outputs(self) -> int:
        """How many outputs the prompt gets."""
        return 1 if self.n is None else self.n

    @property
    def usage_in(self) -> UsageIn:
        """Which chunks of a stream carry the usage.

        Raises InvalidArgumentError for stream_options without stream.
        """
        if self.stream_options is None:
            return "none"
        if not self.stream:
            raise InvalidArgumentError(
                "stream_options needs stream to be true", param="stream_options"
            )
        if not self.stream_options.include_usage:
            return "none"
        return "each" if self.stream_options.continuous_usage_stats else "last"


def to_sampling(
    request: GenerationRequest, *, max_tokens: int | None, num_logprobs: int | None
) -> Sampling:
    """Sampling of a request. Raises InvalidArgumentError for contradicting forms.

    `num_logprobs` counts alternatives: 0 is the output token's logprob alone.
    """
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=_to_stop(request.stop),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        max_tokens=max_tokens,
        min_tokens=request.min_tokens or 0,
        n=request.num_outputs,
        logprobs=num_logprobs,
        logit_bias=request.logit_bias or {},
        allowed_token_ids=tuple(request.allowed_token_ids or ()),
        bad_words=tuple(request.bad_words or ()),
        structured_output=to_form(
            request.response_format, request.structured_outputs, _guided(request)
        ),
        skip_special_tokens=request.skip_special_tokens is not False,
        include_stop=bool(request.include_stop_str_in_output),
    )


def _to_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _guided(request: GenerationRequest) -> StructuredOutputs:
    return StructuredOutputs(
        json=request.guided_json,
        regex=request.guided_regex,
        grammar=request.guided_grammar,
        choice=request.guided_choice,
        json_object=request.guided_json_object,
    )
