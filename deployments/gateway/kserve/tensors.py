"""The tensors of a language model on the wire: names, types, bytes.

Raw bytes are little endian, elements one after the other; each element of a
BYTES tensor follows its length as a 32-bit number: "hi" is 02 00 00 00 68 69.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from deployments.kserve import grpc_service_pb2 as pb
from infra.errors import InvalidArgumentError
from infra.section_file import nearest

Datatype = Literal["BYTES", "BOOL", "FP32", "UINT32"]
InputValue = bytes | bool

# Each of shape [1].
INPUT_TYPES: Mapping[str, Datatype] = {
    "text_input": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_cumulative_logprob": "BOOL",
    "return_logprobs": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
}


class OutputType(NamedTuple):
    """Type of an output tensor; `num_values` is -1 where it is the request's `n`."""

    datatype: Datatype
    num_values: int


OUTPUT_TYPES: Mapping[str, OutputType] = {
    "text_output": OutputType("BYTES", -1),
    "finish_reason": OutputType("BYTES", -1),
    "cumulative_logprob": OutputType("FP32", -1),
    "logprobs": OutputType("BYTES", -1),
    "num_input_tokens": OutputType("UINT32", 1),
    "num_output_tokens": OutputType("UINT32", -1),
}
_LENGTH = struct.Struct("<I")
_FORMATS = {"FP32": "f", "UINT32": "I"}


def decode_inputs(request: pb.ModelInferRequest) -> dict[str, InputValue]:
    """The only value of each input, by name.

    Raises InvalidArgumentError for a name, type, shape or content that is not right.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgumentError(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; "
            "give one for each",
            param="raw_input_contents",
        )
    found: dict[str, InputValue] = {}
    for index, tensor in enumerate(request.inputs):
        _check_input(tensor)
        if tensor.name in found:
            raise _wrong(tensor, "is given twice")
        found[tensor.name] = _from_raw(tensor, raw[index]) if raw else _from_contents(tensor)
    return found


def encode_output(name: str, values: Sequence[str] | Sequence[float]) -> bytes:
    """Raw bytes of an output tensor."""
    datatype = OUTPUT_TYPES[name].datatype
    if datatype == "BYTES":
        parts = [str(value).encode() for value in values]
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)


def _check_input(tensor: pb.ModelInferRequest.InferInputTensor) -> None:
    if tensor.name not in INPUT_TYPES:
        raise unknown_tensor("input", tensor.name, INPUT_TYPES)
    datatype = INPUT_TYPES[tensor.name]
    if tensor.datatype != datatype:
        raise _wrong(tensor, f"is of type {tensor.datatype[:16]}; it must be {datatype}")
    if not tensor.shape or math.prod(tensor.shape) != 1 or min(tensor.shape) < 1:
        raise _wrong(tensor, f"has the shape {list(tensor.shape)[:8]}; it must be [1]")


def unknown_tensor(kind: str, name: str, known: Mapping[str, object]) -> InvalidArgumentError:
    """The error for a tensor that no model here has."""
    name = name[:64]
    close = nearest(name, known)
    hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
    return InvalidArgumentError(f"there is no {kind} {name}; {hint}", param=name)


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes) -> InputValue:
    if tensor.datatype == "BOOL":
        if len(raw) != 1:
            raise _wrong(tensor, f"has {len(raw)} raw bytes; a BOOL has 1")
        return raw != b"\x00"
    size = _LENGTH.size
    if len(raw) < size or _LENGTH.unpack(raw[:size])[0] != len(raw) - size:
        raise _wrong(tensor, "must be one element: its length in 4 bytes, then its bytes")
    return raw[size:]


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> InputValue:
    contents = tensor.contents
    given: Sequence[InputValue] = (
        contents.bool_contents if tensor.datatype == "BOOL" else contents.bytes_contents
    )
    if len(given) != 1:
        raise _wrong(tensor, f"has {len(given)} values of type {tensor.datatype}; give one")
    return given[0]


def _wrong(tensor: pb.ModelInferRequest.InferInputTensor, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"input {tensor.name} {what}", param=tensor.name)
