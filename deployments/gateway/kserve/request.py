"""A KServe inference request, checked: what to generate and what to give back."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from deployments.gateway.checks import (
    MAX_PARAMETERS,
    MAX_TENSORS,
    check_count,
    check_request_id,
)
from deployments.gateway.kserve.sampling import PARAM, decode_sampling
from deployments.gateway.kserve.tensors import (
    OUTPUT_TYPES,
    InputValue,
    decode_inputs,
    unknown_tensor,
)
from deployments.kserve import grpc_service_pb2 as pb
from deployments.types import Sampling
from infra.errors import InvalidArgumentError, UnknownModelError
from router.types import Priority

# Models have no versions here; this one stands for what is served.
VERSION = "1"
EMPTY_FINAL_PARAM = "triton_enable_empty_final_response"
_RETURN = "return_"
_TIMEOUT_PARAM = "timeout"
_PRIORITY_PARAM = "priority"
# Triton's own; the others are sampling parameters.
_OWN_PARAMS = frozenset({_TIMEOUT_PARAM, _PRIORITY_PARAM, EMPTY_FINAL_PARAM})
_REFUSED_PARAMS: Mapping[str, str] = {
    "sequence_id": "there are no sequences of requests",
    "sequence_start": "there are no sequences of requests",
    "sequence_end": "there are no sequences of requests",
}
# Triton's numbers: 1 comes first; 0 is the default, here what the caller has anyway.
_PRIORITIES: Mapping[int, Priority | None] = {0: None, 1: "high", 2: "normal", 3: "low"}


class InferRequest(NamedTuple):
    """One request of either form; `outputs` are the tensors that its responses have."""

    id: str
    model: str
    text: str
    sampling: Sampling
    stream: bool
    has_prompt_in_output: bool
    outputs: tuple[str, ...]
    timeout_s: float | None
    priority: Priority | None


def decode_request(request: pb.ModelInferRequest) -> InferRequest:
    """Raises InvalidArgumentError that names the tensor or parameter at fault."""
    check_version(request.model_version)
    check_count(len(request.inputs), MAX_TENSORS, "inputs")
    check_count(len(request.outputs), MAX_TENSORS, "outputs")
    check_count(len(request.parameters), MAX_PARAMETERS, "parameters")
    asked = {tensor.name for tensor in request.outputs}
    for name in asked - OUTPUT_TYPES.keys():
        raise unknown_tensor("output", name, OUTPUT_TYPES)
    params = {name: _param_value(name, param) for name, param in request.parameters.items()}
    made = make_request(request.id, request.model_name, decode_inputs(request), params)
    if not asked:
        return made
    return made._replace(outputs=tuple(name for name in made.outputs if name in asked))


def make_request(
    request_id: str, model: str, inputs: Mapping[str, InputValue], params: Mapping[str, Any]
) -> InferRequest:
    """A request of input tensors and parameters. Raises InvalidArgumentError likewise."""
    check_count(len(params), MAX_PARAMETERS, "parameters")
    if request_id:
        _check_id(request_id)
    if "text_input" not in inputs:
        raise InvalidArgumentError("the input text_input is missing", param="text_input")
    stream = bool(inputs.get("stream", False))
    outputs = tuple(
        name for name in OUTPUT_TYPES if name == "text_output" or inputs.get(_RETURN + name)
    )
    return InferRequest(
        id=request_id,
        model=model,
        text=_to_text(inputs["text_input"]),
        sampling=decode_sampling(
            _sampling_text(inputs, params),
            needs_logprobs=bool({"logprobs", "cumulative_logprob"} & {*outputs}),
        ),
        stream=stream,
        has_prompt_in_output=_has_prompt(inputs, stream=stream),
        outputs=outputs,
        timeout_s=_timeout_s(params),
        priority=_priority(params),
    )


def check_version(version: str) -> None:
    """Raises UnknownModelError for another version than the only one."""
    if version not in ("", VERSION):
        raise UnknownModelError(
            f"there is no version {version[:64]!r}; leave it empty or give {VERSION}",
            param="model_version",
        )


def _check_id(request_id: str) -> None:
    try:
        check_request_id(request_id)
    except InvalidArgumentError as error:
        raise error.renamed({"request_id": "id"}) from None


def _to_text(value: InputValue) -> str:
    assert isinstance(value, bytes)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("text_input is not UTF-8", param="text_input") from error


def _has_prompt(inputs: Mapping[str, InputValue], *, stream: bool) -> bool:
    """As in Triton's vLLM backend: the prompt leads the output unless it streams."""
    has_prompt = not inputs.get("exclude_input_in_output", stream)
    if has_prompt and stream:
        raise InvalidArgumentError(
            "a stream does not repeat the prompt; leave out exclude_input_in_output "
            "or set it to true",
            param="exclude_input_in_output",
        )
    return has_prompt


def _sampling_text(inputs: Mapping[str, InputValue], params: Mapping[str, Any]) -> bytes:
    """The tensor, or else the request's own parameters without Triton's."""
    for name in params.keys() & _REFUSED_PARAMS.keys():
        raise InvalidArgumentError(
            f"leave out the parameter {name}: {_REFUSED_PARAMS[name]}", param=name
        )
    rest = {n: v for n, v in params.items() if n not in _OWN_PARAMS}
    text = inputs.get(PARAM)
    if not isinstance(text, bytes):
        return msgspec.json.encode(rest)
    for name in rest:
        short = name[:64]
        raise InvalidArgumentError(
            f"put {short} into {PARAM}, or send all of them as parameters", param=short
        )
    return text


def _timeout_s(params: Mapping[str, Any]) -> float | None:
    """Triton's `timeout` is in microseconds; 0 is none."""
    timeout_us = params.get(_TIMEOUT_PARAM, 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise InvalidArgumentError(
            "the parameter timeout must be a number of microseconds", param=_TIMEOUT_PARAM
        )
    return timeout_us / 1e6 if timeout_us else None


def _priority(params: Mapping[str, Any]) -> Priority | None:
    number = params.get(_PRIORITY_PARAM, 0)
    if type(number) is not int or number not in _PRIORITIES:
        raise InvalidArgumentError(
            "the parameter priority must be 1 (high), 2 (normal), 3 (low) or 0 (unset)",
            param=_PRIORITY_PARAM,
        )
    return _PRIORITIES[number]


def _param_value(name: str, param: pb.InferParameter) -> bool | float | str:
    choice = param.WhichOneof("parameter_choice")
    value: bool | float | str = getattr(param, choice) if choice else ""
    if isinstance(value, float) and not math.isfinite(value):
        short = name[:64]
        # JSON, as which it goes on, would make null of it, and so a default.
        raise InvalidArgumentError(f"the parameter {short} must be finite", param=short)
    return value
