"""Translates our sampling parameters to vLLM's."""

from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from deployments.types import Sampling, StructuredOutput

# Fields of the same name and meaning in both.
_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "ignore_eos",
    "min_tokens",
    "n",
    "logprobs",
    "skip_special_tokens",
)


def to_sampling_params(sampling: Sampling, model_defaults: dict[str, Any]) -> SamplingParams:
    """vLLM's parameters; what is None here comes from `model_defaults`.

    `max_tokens` must be set. Raises ValueError (vLLM's) for values out of range.
    """
    assert sampling.max_tokens is not None
    values = {k: v for k in _SAME if (v := getattr(sampling, k)) is not None}
    defaults = {k: v for k, v in model_defaults.items() if k != "max_tokens"}
    return SamplingParams(
        **(defaults | values),
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        logit_bias=sampling.logit_bias or None,
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        bad_words=list(sampling.bad_words) or None,
        structured_outputs=_structured(sampling.structured_output),
        include_stop_str_in_output=sampling.include_stop,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def _structured(form: StructuredOutput | None) -> StructuredOutputsParams | None:
    if form is None:
        return None
    return StructuredOutputsParams(
        json=form.json_schema,
        regex=form.regex,
        grammar=form.grammar,
        choice=list(form.choice) if form.choice is not None else None,
        json_object=True if form.json_object else None,
    )
