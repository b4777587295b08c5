"""What a request may ask for."""

import pytest

from deployments.gateway.checks import (
    Limits,
    check_request_id,
    check_sampling,
    check_token_ids,
    fit_to_context,
)
from deployments.types import Sampling, StructuredOutput
from infra.errors import InvalidArgumentError, PromptTooLongError

LIMITS = Limits(max_model_len=100, vocab_size=50, max_outputs=4, max_logprobs=5)
MANY_CHOICES = StructuredOutput(choice=("a",) * 1025)
LONG_CHOICE = StructuredOutput(choice=("a" * 1025,))


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        (Sampling(temperature=-0.1), "temperature"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(top_p=0.0), "top_p"),
        (Sampling(min_p=1.5), "min_p"),
        (Sampling(presence_penalty=3.0), "presence_penalty"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty"),
        (Sampling(max_tokens=0), "max_tokens"),
        (Sampling(n=0), "n"),
        (Sampling(n=5), "n"),
        (Sampling(n=2, temperature=0.0), "n"),
        (Sampling(logprobs=6), "logprobs"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=("x",) * 65), "stop"),
        (Sampling(stop=("x" * 1025,)), "stop"),
        (Sampling(bad_words=("x" * 1025,)), "bad_words"),
        (Sampling(stop_token_ids=(50,)), "stop_token_ids"),
        (Sampling(logit_bias={1: 101.0}), "logit_bias"),
        (Sampling(logit_bias={50: 1.0}), "logit_bias"),
        (Sampling(allowed_token_ids=(-1,)), "allowed_token_ids"),
        (Sampling(allowed_token_ids=(1,) * 51), "allowed_token_ids"),
        (
            Sampling(structured_output=StructuredOutput(choice=("a",) * 1025)),
            "structured_output",
        ),
        (
            Sampling(structured_output=StructuredOutput(choice=("a" * 1025,))),
            "structured_output",
        ),
        (Sampling(structured_output=StructuredOutput(regex="x" * 70_000)), "structured_output"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(sampling: Sampling, param: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        check_sampling(sampling, LIMITS)
    assert refused.value.param == param
    assert param in refused.value.message


def test_values_at_the_edge_of_their_range_pass() -> None:
    check_sampling(
        Sampling(temperature=0, top_p=1, min_p=0, presence_penalty=-2, logprobs=5), LIMITS
    )
    check_sampling(Sampling(n=4, temperature=1, stop_token_ids=(0, 49)), LIMITS)


def test_max_tokens_defaults_to_what_the_context_leaves() -> None:
    assert fit_to_context(30, Sampling(), 100).max_tokens == 70
    assert fit_to_context(30, Sampling(max_tokens=7), 100).max_tokens == 7


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "advice"),
    [(100, None, "at most 99"), (99, 2, "at most 1 "), (250, 1, "shorten the prompt")],
)
def test_a_prompt_that_does_not_fit_is_told_what_would(
    num_prompt_tokens: int, max_tokens: int | None, advice: str
) -> None:
    with pytest.raises(PromptTooLongError, match=advice) as caught:
        fit_to_context(num_prompt_tokens, Sampling(max_tokens=max_tokens), 100)
    # LiteLLM knows the failure by these words.
    assert "this model's maximum context length is 100 tokens" in str(caught.value)


def test_an_empty_prompt_and_an_impossible_minimum_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no tokens"):
        fit_to_context(0, Sampling(), 100)
    with pytest.raises(InvalidArgumentError, match="min_tokens"):
        fit_to_context(90, Sampling(min_tokens=11), 100)


def test_token_ids_must_name_tokens() -> None:
    check_token_ids([], 50, "prompt")
    check_token_ids([0, 49], 50, "prompt")
    with pytest.raises(InvalidArgumentError, match="outside 0 to 49"):
        check_token_ids([3, 50], 50, "prompt")


@pytest.mark.parametrize("request_id", ["a b", "x" * 129, "ü", "a\n"])
def test_a_request_id_that_would_garble_logs_is_refused(request_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_request_id(request_id)
    check_request_id("trace-1/2_3")
