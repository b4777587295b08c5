"""The asyncio client. `client` is the same with blocking calls."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from coterie.repetition import Repetition
from coterie.requests import Inputs, Messages, Prompt
from coterie.retry import DEFAULT_MAX_RETRIES
from coterie.sampling import Sampling, SamplingKeywords, sampling_with
from coterie.security import Security, SecurityKeywords
from coterie.stream_async import AsyncStream
from coterie.types import Embeddings, Model, Response, Tokenization
from coterie.v1 import inference_pb2 as pb


class AsyncClient:
    """Talks to a Coterie cluster over gRPC; tasks of one event loop may share it.

    All methods raise the errors of `coterie.errors`. `timeout_s` is the time
    in seconds that a call may take, its stream included; None leaves the
    limit to the cluster. `model` may stay empty where one model is served.
    `api_key` says who asks; `tls`, `ca_file` and a client's certificate
    (`client_certificate_file`, `client_key_file`) turn TLS on, or ready-made
    `credentials` do. `metadata` goes with every call.

    A request that has not begun, as the cluster has no room for it or is not
    reached, is sent again up to `max_retries` times, after the time that the
    cluster asks for and within `timeout_s`; where a gateway takes connections and
    says nothing, for up to a minute. So is one whose connection was lost,
    if its answer is the same each time (`temperature=0`, or a `seed`): a stream
    goes on behind what it has given; see `coterie.retry`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        max_retries: int = DEFAULT_MAX_RETRIES,
        **security: Unpack[SecurityKeywords],
    ) -> None:
        found = connection_to(address, credentials, metadata, Security(**security))
        self._connection = replace(found, max_retries=max_retries)
        self._channel: grpc.aio.Channel | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster."""
        return self._connection.address

    @functools.cached_property
    def _stub(self) -> Any:
        """Made at the first call, because a channel belongs to the running loop."""
        self._channel = open_channel(self._connection)
        return stub_on(self._channel)

    async def close(self) -> None:
        """End the connection, and with it all streams that are still open."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> AsyncStream:
        """Continue a prompt, given as text or as token ids; chunks stream.

        Sampling parameters come as keywords or as `sampling`; keywords win.
        """
        chosen = sampling_with(sampling, **keywords)
        request = requests.generate_request(prompt, model, request_id, chosen)
        return self._stream(self._stub.Generate, request, timeout_s)

    async def generate_unary(
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
        return responses.response_of(
            await self._call(self._stub.GenerateUnary, request, timeout_s)
        )

    def chat(
        self,
        messages: Messages,
        *,
        model: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
        **keywords: Unpack[SamplingKeywords],
    ) -> AsyncStream:
        """Answer a conversation; chunks stream.

        `messages` is the user's text, or a sequence of `Message`s, of dicts
        with `role` and `content`, or of (role, content) pairs.
        """
        chosen = sampling_with(sampling, **keywords)
        request = requests.chat_request(messages, model, request_id, chosen)
        return self._stream(self._stub.Chat, request, timeout_s)

    async def chat_unary(
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
        return responses.response_of(await self._call(self._stub.ChatUnary, request, timeout_s))

    async def embed(
        self,
        inputs: Inputs,
        *,
        model: str = "",
        dimensions: int | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Embeddings:
        """A vector for each input: a text, or a sequence of texts or of their token ids.

        `dimensions` shortens them, where the model can. Raises `UnknownMethodError`
        where the model is served to generate.
        """
        request = requests.embed_request(inputs, model, request_id, dimensions)
        return responses.embeddings_of(await self._call(self._stub.Embed, request, timeout_s))

    async def tokenize(
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
        return responses.tokenization_of(
            await self._call(self._stub.Tokenize, request, timeout_s)
        )

    async def detokenize(
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
        answer: pb.DetokenizeResponse = await self._call(
            self._stub.Detokenize, request, timeout_s
        )
        return answer.text

    async def models(self, *, timeout_s: float | None = None) -> tuple[Model, ...]:
        """All models and adapters that the cluster serves, by name."""
        request = pb.ListModelsRequest()
        answer: pb.ListModelsResponse = await self._call(
            self._stub.ListModels, request, timeout_s
        )
        return tuple(responses.model_of(each) for each in answer.models)

    async def model(self, name: str = "", *, timeout_s: float | None = None) -> Model:
        """One of them; "" for the only one. Raises `UnknownModelError`."""
        request = pb.GetModelRequest(name=name)
        return responses.model_of(await self._call(self._stub.GetModel, request, timeout_s))

    def _stream(
        self, method: Callable[..., Any], request: Any, timeout_s: float | None
    ) -> AsyncStream:
        metadata = self._connection.metadata

        def open_call(left_s: float | None) -> Any:
            return method(request, timeout=left_s, metadata=metadata)

        tries = self._connection.attempts(timeout_s)
        return AsyncStream(open_call, self._connection, tries, Repetition(request))

    async def _call(
        self, method: Callable[..., Any], request: Any, timeout_s: float | None
    ) -> Any:
        tries, metadata = self._connection.attempts(timeout_s), self._connection.metadata
        repetition = Repetition(request)
        while True:
            try:
                with self._connection.beginning():
                    call = method(request, timeout=tries.left_s, metadata=metadata)
                answer = await call
            except grpc.RpcError as failed:
                error = self._connection.error(cast(FailedCall, failed), timeout_s)
                delay_s = tries.next_delay_s(error, repetition)
                if delay_s is None:
                    raise error from failed
            else:
                tries.note_answer()
                return answer
            await asyncio.sleep(delay_s)


def open_channel(connection: Connection) -> grpc.aio.Channel:
    """A channel of the running event loop; close it."""
    if connection.credentials is None:
        return grpc.aio.insecure_channel(connection.address, options=connection.options)
    return grpc.aio.secure_channel(
        connection.address, connection.credentials, options=connection.options
    )
