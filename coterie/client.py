"""The blocking client. `client_async` is the same for asyncio."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, cast

import grpc

from coterie import requests, responses
from coterie.connection import (
    DEFAULT_ADDRESS,
    Connection,
    Metadata,
    connection_to,
    stub_on,
)
from coterie.errors import FailedCall
from coterie.requests import Messages, Prompt
from coterie.sampling import Sampling, SamplingKeywords, sampling_with
from coterie.security import Security, SecurityKeywords
from coterie.types import Chunk, Model, Response, Tokenization, Usage
from coterie.v1 import inference_pb2 as pb


class Stream:
    """The chunks of one request as they arrive; iterate it once.

    Leaving early (`break`, an exception, the end of a `with` block, dropping
    the last reference) cancels the request in the cluster. `usage` is None
    until the last chunk has come.
    """

    def __init__(self, call: Any, connection: Connection, timeout_s: float | None) -> None:
        self._call = call
        self._connection = connection
        self._timeout_s = timeout_s
        self._is_cancelled = False
        self.usage: Usage | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        try:
            message: pb.OutputChunk = next(self._call)
        except grpc.RpcError as error:
            if self._is_cancelled:
                raise StopIteration from None
            raise self._connection.error(cast(FailedCall, error), self._timeout_s) from error
        chunk = responses.chunk_of(message)
        self.usage = chunk.usage or self.usage
        return chunk

    def cancel(self) -> None:
        """End the request; iteration stops, from another thread too. After the
        end of the stream it does nothing."""
        self._is_cancelled = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


class Client:
    """Talks to a Coterie cluster over gRPC; threads may share it.

    All methods raise the errors of `coterie.errors`. `timeout_s` is the time
    in seconds that a call may take, its stream included; None leaves the
    limit to the cluster. `model` may stay empty where one model is served.
    `api_key` says who asks; `tls`, `ca_file` and a client's certificate
    (`client_certificate_file`, `client_key_file`) turn TLS on, or ready-made
    `credentials` do. `metadata` goes with every call.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        **security: Unpack[SecurityKeywords],
    ) -> None:
        self._connection = connection_to(address, credentials, metadata, Security(**security))
        self._channel = _open(self._connection)
        self._stub = stub_on(self._channel)

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster."""
        return self._connection.address

    def close(self) -> None:
        """End the connection, and with it all streams that are still open."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> Stream:
        """Continue a prompt, given as text or as token ids; chunks stream.

        Sampling parameters come as keywords or as `sampling`; keywords win.
        """
        chosen = sampling_with(sampling, **keywords)
        request = requests.generate_request(prompt, model, request_id, chosen)
        return self._stream(self._stub.Generate, request, timeout_s)

    def generate_unary(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> Response:
        """As `generate`, answered once with the whole outputs."""
        chosen = sampling_with(sampling, **keywords)
        request = requests.generate_request(prompt, model, request_id, chosen)
        return responses.response_of(self._call(self._stub.GenerateUnary, request, timeout_s))

    def chat(
        self,
        messages: Messages,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> Stream:
        """Answer a conversation; chunks stream.

        `messages` is the user's text, or a sequence of `Message`s, of dicts
        with `role` and `content`, or of (role, content) pairs.
        """
        chosen = sampling_with(sampling, **keywords)
        request = requests.chat_request(messages, model, request_id, chosen)
        return self._stream(self._stub.Chat, request, timeout_s)

    def chat_unary(
        self,
        messages: Messages,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> Response:
        """As `chat`, answered once with the whole outputs."""
        chosen = sampling_with(sampling, **keywords)
        request = requests.chat_request(messages, model, request_id, chosen)
        return responses.response_of(self._call(self._stub.ChatUnary, request, timeout_s))

    def tokenize(
        self,
        prompt: Messages,
        *,
        model: str = "",
        with_special_tokens: bool = True,
        timeout_s: float | None = None,
    ) -> Tokenization:
        """Token ids as `generate` (a string) or `chat` (messages) makes them."""
        request = requests.tokenize_request(
            prompt, model, with_special_tokens=with_special_tokens
        )
        return responses.tokenization_of(self._call(self._stub.Tokenize, request, timeout_s))

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        """Text of token ids."""
        request = requests.detokenize_request(
            token_ids, model, skip_special_tokens=skip_special_tokens
        )
        answer: pb.DetokenizeResponse = self._call(self._stub.Detokenize, request, timeout_s)
        return answer.text

    def models(self, *, timeout_s: float | None = None) -> tuple[Model, ...]:
        """All models and adapters that the cluster serves, by name."""
        request = pb.ListModelsRequest()
        answer: pb.ListModelsResponse = self._call(self._stub.ListModels, request, timeout_s)
        return tuple(responses.model_of(each) for each in answer.models)

    def model(self, name: str = "", *, timeout_s: float | None = None) -> Model:
        """One of them; "" for the only one. Raises `UnknownModelError`."""
        request = pb.GetModelRequest(name=name)
        return responses.model_of(self._call(self._stub.GetModel, request, timeout_s))

    def _stream(
        self, method: Callable[..., Any], request: Any, timeout_s: float | None
    ) -> Stream:
        call = method(request, timeout=timeout_s, metadata=self._connection.metadata)
        return Stream(call, self._connection, timeout_s)

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise self._connection.error(cast(FailedCall, error), timeout_s) from error


def _open(connection: Connection) -> grpc.Channel:
    if connection.credentials is None:
        return grpc.insecure_channel(connection.address, options=connection.options)
    return grpc.secure_channel(
        connection.address, connection.credentials, options=connection.options
    )
