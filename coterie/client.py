"""The blocking client. `client_async` is the same for asyncio."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from coterie import requests, responses
from coterie.blocking_call import BlockingCall
from coterie.connection import (
    DEFAULT_ADDRESS,
    Connection,
    Metadata,
    connection_to,
    stub_on,
)
from coterie.repetition import Repetition
from coterie.requests import Inputs, Messages, Prompt
from coterie.retry import DEFAULT_MAX_RETRIES
from coterie.sampling import Sampling, SamplingKeywords, sampling_with
from coterie.security import Security, SecurityKeywords
from coterie.stream import Stream
from coterie.types import Embeddings, Model, Response, Tokenization
from coterie.uninterrupted import uninterrupted
from coterie.v1 import inference_pb2 as pb


class Client:
    """Talks to a Coterie cluster over gRPC; threads may share it.

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

    def embed(
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
        return responses.embeddings_of(self._call(self._stub.Embed, request, timeout_s))

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
        return Stream(self._call_of(method, next, request, timeout_s))

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        call = self._call_of(method.future, _result, request, timeout_s)

        def answer() -> Any:
            call.begin()
            return call.next_message()

        try:
            return uninterrupted(answer)
        except KeyboardInterrupt:
            uninterrupted(call.cancel)
            raise

    def _call_of(
        self,
        method: Callable[..., Any],
        next_of: Callable[[Any], Any],
        request: Any,
        timeout_s: float | None,
    ) -> BlockingCall[Any]:
        metadata = self._connection.metadata

        def open_call(left_s: float | None) -> Any:
            return method(request, timeout=left_s, metadata=metadata)

        tries = self._connection.attempts(timeout_s)
        repetition = Repetition(request)
        return BlockingCall(open_call, next_of, self._connection, tries, repetition)


def _result(call: Any) -> Any:
    return call.result()


def _open(connection: Connection) -> grpc.Channel:
    if connection.credentials is None:
        return grpc.insecure_channel(connection.address, options=connection.options)
    return grpc.secure_channel(
        connection.address, connection.credentials, options=connection.options
    )
