"""The driver of a KServe or Triton server, over gRPC: one `ModelStreamInfer` a request.

The stubs of the protocol lie in `deployments.kserve`; they need gRPC alone. One process
cannot hold both them and `tritonclient`.
"""

import json
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import grpc

from coterie.benchmark.driver import Manner
from coterie.benchmark.prompts import WORDS, Alphabet
from coterie.benchmark.types import Ask, Counts, Piece
from coterie.client_async import open_channel
from coterie.connection import connection_to
from coterie.errors import (
    CoterieError,
    FailedCall,
    InvalidArgumentError,
    UnavailableError,
    UnknownModelError,
)
from coterie.hints import hinted
from coterie.security import Security
from deployments.kserve import grpc_service_pb2 as pb
from deployments.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub

KIND_PARAM = "coterie_error"
_LENGTH = struct.Struct("<I")
_ASKED = ("return_num_input_tokens", "return_num_output_tokens")


class KServeDriver:
    """A `Driver` of models with the tensors of Triton's vLLM backend."""

    def __init__(self, address: str, manner: Manner, security: Security | None = None) -> None:
        if manner.is_chat:
            raise InvalidArgumentError(
                "KServe has no conversations; leave out --chat", param="is_chat"
            )
        if not manner.model:
            raise InvalidArgumentError("name the model: --model", param="model")
        chosen = security or Security(api_key=manner.api_key)
        self._connection = connection_to(address, None, (), chosen)
        self._channel: grpc.aio.Channel | None = None
        self._manner = manner

    @cached_property
    def _stub(self) -> Any:
        """Made at the first call, because a channel belongs to the running loop."""
        self._channel = open_channel(self._connection)
        return GRPCInferenceServiceStub(self._channel)

    async def prepare(self) -> Alphabet:
        """See `Driver.prepare`."""
        model, timeout_s = self._manner.model, self._manner.contact_timeout_s
        with self._failures(timeout_s):
            ready = await self._stub.ModelReady(
                pb.ModelReadyRequest(name=model),
                timeout=timeout_s,
                metadata=self._connection.metadata,
            )
        if not ready.ready:
            told = UnknownModelError(
                f"{self._connection.address} has no model {model} that is ready", param="model"
            )
            raise hinted(told, "--model NAME chooses another")
        return WORDS

    async def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        """See `Driver.stream`."""
        with self._failures(self._manner.timeout_s):
            call = self._stub.ModelStreamInfer(
                iter([self._request(ask)]),
                timeout=self._manner.timeout_s,
                metadata=self._connection.metadata,
            )
            try:
                async for piece in _pieces(call):
                    yield piece
            finally:
                call.cancel()

    async def close(self) -> None:
        """See `Driver.close`."""
        if self._channel is not None:
            await self._channel.close()

    def _request(self, ask: Ask) -> pb.ModelInferRequest:
        if not isinstance(ask.prompt, str):
            raise InvalidArgumentError("KServe takes text, no token ids", param="prompt")
        request = pb.ModelInferRequest(model_name=self._manner.model)
        sampling = json.dumps(self._sampling(ask)).encode()
        for name, text in (
            ("text_input", ask.prompt.encode()),
            ("sampling_parameters", sampling),
        ):
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(text)
        for name in ("stream", "exclude_input_in_output", *_ASKED):
            tensor = request.inputs.add(name=name, datatype="BOOL", shape=[1])
            tensor.contents.bool_contents.append(True)
        return request

    def _sampling(self, ask: Ask) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if ask.max_tokens is not None:
            found["max_tokens"] = ask.max_tokens
        if self._manner.temperature is not None:
            found["temperature"] = self._manner.temperature
        if self._manner.ignore_eos:
            found["ignore_eos"] = True
        return found

    @contextmanager
    def _failures(self, timeout_s: float | None) -> Iterator[None]:
        """Turn what gRPC raises into errors of ours."""
        try:
            yield
        except grpc.RpcError as error:
            failed = cast(FailedCall, error)
            raise self._connection.error(failed, timeout_s) from error
        except struct.error as error:
            raise CoterieError(f"an output cannot be read: {error}") from error


async def _pieces(call: Any) -> AsyncIterator[Piece]:
    num_prompt_tokens, num_output_tokens = 0, 0
    has_counts = False
    async for response in call:
        if response.error_message:
            raise _failure_of(response)
        values = values_of(response.infer_response)
        num_new = sum(values.get("num_output_tokens", ()))
        has_counts = has_counts or "num_output_tokens" in values
        num_prompt_tokens = max([num_prompt_tokens, *values.get("num_input_tokens", ())])
        num_output_tokens += num_new
        if num_new or any(values.get("text_output", ())):
            yield Piece(True)
    if has_counts:
        yield Piece(False, Counts(num_prompt_tokens, num_output_tokens, 0))


def values_of(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    """The values of each output tensor, by name: bytes, or whole numbers.

    Raises UnavailableError for a tensor that is none of a language model,
    struct.error for bytes that are none of its type.
    """
    found: dict[str, list[Any]] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        match tensor.datatype:
            case "BYTES":
                found[tensor.name] = list(_elements(raw))
            case "UINT32":
                found[tensor.name] = [number for (number,) in _LENGTH.iter_unpack(raw)]
            case _:
                raise UnavailableError(
                    f"the output {tensor.name} of type {tensor.datatype} is no language model's"
                )
    return found


def _elements(raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        yield raw[start : start + length]
        start += length


def _failure_of(response: pb.ModelStreamInferResponse) -> CoterieError:
    """An error whose kind is the server's own word, if it has one."""
    failure = CoterieError(response.error_message)
    params = response.infer_response.parameters
    failure.kind = "infer_failed"
    if KIND_PARAM in params and params[KIND_PARAM].string_param:
        failure.kind = params[KIND_PARAM].string_param
    return failure
