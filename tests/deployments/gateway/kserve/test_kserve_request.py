"""KServe messages to requests: what is taken, what is refused, and with which words."""

import json
import math
from typing import Any

import pytest

from deployments.gateway.kserve.request import decode_request
from deployments.gateway.kserve.sampling import decode_sampling
from deployments.types import Sampling, StructuredOutput
from infra.errors import InvalidArgumentError, RequestError, UnknownModelError
from tests.deployments.gateway.kserve.messages import infer_request, with_params


def sampling_of(**given: Any) -> Sampling:
    return decode_sampling(json.dumps(given).encode(), needs_logprobs=False)


def test_a_request_with_nothing_but_text_has_tritons_defaults() -> None:
    request = decode_request(infer_request(text_input="abc"))
    assert request._asdict() == {
        "id": "r",
        "model": "tiny",
        "text": "abc",
        "sampling": Sampling(max_tokens=16),
        "stream": False,
        "has_prompt_in_output": True,
        "outputs": ("text_output",),
        "timeout_s": None,
        "priority": None,
    }


def test_a_stream_does_not_repeat_the_prompt() -> None:
    assert not decode_request(infer_request(text_input="a", stream=True)).has_prompt_in_output
    with pytest.raises(InvalidArgumentError, match="a stream does not repeat the prompt"):
        decode_request(
            infer_request(text_input="a", stream=True, exclude_input_in_output=False)
        )


def test_outputs_are_those_made_and_asked_for() -> None:
    request = infer_request(text_input="a", return_finish_reason=True, return_logprobs=True)
    assert decode_request(request).outputs == ("text_output", "finish_reason", "logprobs")
    assert decode_request(request).sampling.logprobs == 0
    request.outputs.add(name="finish_reason")
    assert decode_request(request).outputs == ("finish_reason",)


def test_parameters_of_the_request_stand_in_for_the_sampling_tensor() -> None:
    request = with_params(
        temperature=0.5,
        max_tokens=3,
        ignore_eos=True,
        stop="x",
        timeout=2_500_000,
        triton_enable_empty_final_response=True,
    )
    decoded = decode_request(request)
    assert decoded.timeout_s == 2.5
    assert decoded.sampling == Sampling(
        temperature=0.5, max_tokens=3, ignore_eos=True, stop=("x",)
    )


def test_sampling_parameters_come_in_one_way_at_a_time() -> None:
    request = infer_request(text_input="a", sampling_parameters="{}")
    request.parameters["temperature"].double_param = 1
    with pytest.raises(InvalidArgumentError, match="put temperature into sampling_parameters"):
        decode_request(request)


def test_numbers_may_be_written_as_strings() -> None:
    assert sampling_of(temperature="0.5", top_k="-1", ignore_eos="true") == Sampling(
        temperature=0.5, top_k=0, ignore_eos=True, max_tokens=16
    )


def test_structured_outputs_are_taken_by_vllms_name() -> None:
    assert sampling_of(structured_outputs={"choice": ["a", "b"]}) == Sampling(
        max_tokens=16, structured_output=StructuredOutput(choice=("a", "b"))
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temprature": 1}, "no parameter temprature; did you mean temperature"),
        ({"output_kind": 1}, "leave out output_kind .* internal to the engine"),
        ({"_eos_token_id": 1}, "leave out _eos_token_id .* internal to the engine"),
        ({"lora_name": "x"}, "name it as the request's model"),
        ({"model": "x"}, "no parameter model"),
        ({"stream": True}, "no parameter stream"),
        ({"temperature": "warm"}, r"Expected float.*\$.temperature"),
    ],
)
def test_other_sampling_parameters_are_refused_by_name(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        sampling_of(**given)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_sampling_parameters_that_are_no_object_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="sampling_parameters cannot be read"):
        decode_sampling(text, needs_logprobs=False)


@pytest.mark.parametrize("name", ["sequence_id", "sequence_end"])
def test_parameters_of_other_kinds_of_models_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"leave out the parameter {name}"):
        decode_request(with_params(**{name: 1}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_and_not_taken_for_the_default(
    number: float,
) -> None:
    with pytest.raises(InvalidArgumentError, match="temperature must be finite") as refused:
        decode_request(with_params(temperature=number))
    assert refused.value.param == "temperature"


def test_a_wrong_timeout_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="a number of microseconds"):
        decode_request(with_params(timeout=-1))


def test_only_the_one_version_is_there() -> None:
    request = infer_request()
    request.model_version = "1"
    assert decode_request(request).model == "tiny"
    request.model_version = "2"
    with pytest.raises(UnknownModelError, match="no version '2'"):
        decode_request(request)


def test_a_request_without_text_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="text_input is missing"):
        decode_request(infer_request(stream=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "text_inputs"}, "no input text_inputs; did you mean text_input"),
        ({"datatype": "INT8"}, "is of type INT8; it must be BYTES"),
        ({"shape": [2]}, r"has the shape \[2\]"),
        ({"shape": []}, r"has the shape \[\]"),
        ({"shape": [-1, -1]}, "has the shape"),
        ({"contents": {"bytes_contents": []}}, "has 0 values of type BYTES"),
        ({"contents": {"bytes_contents": [b"a", b"b"]}}, "has 2 values"),
        ({"contents": {"bytes_contents": [b"\xff"]}}, "not UTF-8"),
    ],
)
def test_a_tensor_that_is_not_right_is_refused(changes: dict[str, Any], words: str) -> None:
    request = infer_request()
    del request.inputs[:]
    tensor = {
        "name": "text_input",
        "datatype": "BYTES",
        "shape": [1],
        "contents": {"bytes_contents": [b"abc"]},
    }
    request.inputs.add(**(tensor | changes))
    with pytest.raises(RequestError, match=words):
        decode_request(request)


@pytest.mark.parametrize("raw", [b"", b"abc", b"\x02\x00\x00\x00abc", b"\x04\x00\x00\x00abc"])
def test_raw_bytes_of_another_length_are_refused(raw: bytes) -> None:
    request = infer_request()
    request.raw_input_contents.append(raw)
    with pytest.raises(InvalidArgumentError, match="must be one element"):
        decode_request(request)


def test_raw_contents_of_another_number_are_refused() -> None:
    request = infer_request()
    request.raw_input_contents.extend([b"", b""])
    with pytest.raises(InvalidArgumentError, match="2 entries for 1 inputs"):
        decode_request(request)


def test_an_input_given_twice_is_refused() -> None:
    request = infer_request()
    request.inputs.append(request.inputs[0])
    with pytest.raises(InvalidArgumentError, match="text_input is given twice"):
        decode_request(request)


def test_an_output_that_is_not_there_is_refused() -> None:
    request = infer_request()
    request.outputs.add(name="text_outputs")
    with pytest.raises(InvalidArgumentError, match="there is no output text_outputs; did you"):
        decode_request(request)


@pytest.mark.parametrize(
    ("number", "priority"), [(0, None), (1, "high"), (2, "normal"), (3, "low")]
)
def test_tritons_priorities_are_numbers_of_ours(number: int, priority: str | None) -> None:
    assert decode_request(with_params(priority=number)).priority == priority


@pytest.mark.parametrize("priority", [4, -1, True, "1"])
def test_another_priority_is_refused(priority: int | str) -> None:
    with pytest.raises(InvalidArgumentError, match="1 \\(high\\)") as refused:
        decode_request(with_params(priority=priority))
    assert refused.value.param == "priority"


def test_tensors_parameters_and_sampling_text_are_limited() -> None:
    request = infer_request()
    for _ in range(65):
        request.outputs.add(name="text_output")
    many_params = with_params(**{f"p{number}": 1 for number in range(65)})
    many_inputs = infer_request()
    for _ in range(65):
        many_inputs.inputs.add().CopyFrom(many_inputs.inputs[0])
    large = infer_request(text_input="a", sampling_parameters=" " * 600_000)
    for wrong, words in (
        (request, "outputs has over 64 entries"),
        (many_params, "parameters has over 64 entries"),
        (many_inputs, "inputs has over 64 entries"),
        (large, "sampling_parameters is over 524288 bytes"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            decode_request(wrong)
