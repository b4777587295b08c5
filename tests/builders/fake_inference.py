"""A cluster that is none: it speaks `coterie.v1` and makes up its answers.

Its tokens are the bytes of UTF-8, so every text has token ids and back. It
answers anything with `reply`, a byte to a chunk, up to `max_tokens`.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc
from deployments.gateway.rpc.error_details import trailing_metadata
from deployments.gateway.status import status_of
from infra.errors import CoterieError, UnknownModelError

REPLY = "there was a small circle of experts."
MAX_MODEL_LEN = 2048


class FakeInference(inference_pb2_grpc.InferenceServicer):
    """What it was asked stands in `requests` and `metadata`, in order.

    `failure` is raised after `fail_after` chunks (by unary calls at once).
    With `hold_after` a stream stops there until the client ends it;
    `ended_early` is set whenever a client leaves before the end.
    """

    def __init__(self, reply: str = REPLY) -> None:
        self.reply = reply
        self.failure: CoterieError | None = None
        self.fail_after = 0
        self.hold_after: int | None = None
        self.ended_early = threading.Event()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.OutputChunk]:
        yield from self._stream(request, context)

    def Chat(
        self, request: pb.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.OutputChunk]:
        yield from self._stream(request, context)

    def GenerateUnary(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> pb.OutputResponse:
        return self._whole(request, context)

    def ChatUnary(
        self, request: pb.ChatRequest, context: grpc.ServicerContext
    ) -> pb.OutputResponse:
        return self._whole(request, context)

    def Embed(
        self, request: pb.EmbedRequest, context: grpc.ServicerContext
    ) -> pb.EmbedResponse:
        """The vector of an input: its length in tokens, and a one."""
        self._enter(request, context)
        lengths = [len(i.token_ids.ids) or len(i.text.encode()) for i in request.inputs]
        return pb.EmbedResponse(
            request_id=request.request_id or "made-up-id",
            model=request.model or "fake",
            embeddings=[pb.Embedding(values=[length, 1.0]) for length in lengths],
            usage=pb.Usage(num_prompt_tokens=sum(lengths)),
        )

    def Tokenize(
        self, request: pb.TokenizeRequest, context: grpc.ServicerContext
    ) -> pb.TokenizeResponse:
        self._enter(request, context)
        text = request.text or _conversation(request.messages)
        return pb.TokenizeResponse(token_ids=text.encode(), max_model_len=MAX_MODEL_LEN)

    def Detokenize(
        self, request: pb.DetokenizeRequest, context: grpc.ServicerContext
    ) -> pb.DetokenizeResponse:
        self._enter(request, context)
        return pb.DetokenizeResponse(text=bytes(request.token_ids).decode(errors="replace"))

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        self._enter(request, context)
        return pb.ListModelsResponse(models=MODELS)

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.Model:
        self._enter(request, context)
        for model in MODELS:
            if request.name in ("", model.name):
                return model
        self._abort(UnknownModelError(f"no model {request.name!r} here"), context)
        raise AssertionError("unreachable: the call was aborted")

    def _enter(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failure is not None and self.fail_after == 0:
            self._abort(self.failure, context)

    def _abort(self, error: CoterieError, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(trailing_metadata(error))
        context.abort(status_of(error).grpc_code, error.message)

    def _stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[pb.OutputChunk]:
        self._enter(request, context)
        visit = _Visit(context, self.ended_early)
        for number, chunk in enumerate(_chunks(request, self.reply)):
            if self.failure is not None and number == self.fail_after:
                visit.is_answered = True
                self._abort(self.failure, context)
            if number == self.hold_after:
                visit.ended.wait()
                return
            yield chunk
        visit.is_answered = True

    def _whole(self, request: Any, context: grpc.ServicerContext) -> pb.OutputResponse:
        self._enter(request, context)
        if self.hold_after is not None:
            _Visit(context, self.ended_early).ended.wait()
        chunks = list(_chunks(request, self.reply))
        outputs = [_output(chunks, index) for index in range(request.sampling.n or 1)]
        final = chunks[-1]
        return pb.OutputResponse(
            request_id=final.request_id, model=final.model, outputs=outputs, usage=final.usage
        )


class _Visit:
    """Notices when a client leaves before it has its answer."""

    def __init__(self, context: grpc.ServicerContext, ended_early: threading.Event) -> None:
        self.ended = threading.Event()
        self.is_answered = False
        self._ended_early = ended_early
        if not context.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        if not self.is_answered:
            self._ended_early.set()
        self.ended.set()


MODELS = (
    pb.Model(
        name="fake",
        reference="made-up",
        max_model_len=MAX_MODEL_LEN,
        vocab_size=256,
        has_chat_template=True,
        num_ready_replicas=1,
        created_s=1_800_000_000,
    ),
    pb.Model(
        name="fake-adapter",
        reference="made-up-adapter",
        max_model_len=MAX_MODEL_LEN,
        vocab_size=256,
        base_model="fake",
        num_ready_replicas=1,
        created_s=1_800_000_000,
    ),
)


def _chunks(request: Any, reply: str) -> Iterator[pb.OutputChunk]:
    """A byte of each output in turn, as an engine's steps would bring them."""
    tokens = reply.encode()[: request.sampling.max_tokens or None]
    is_cut = len(tokens) < len(reply.encode())
    num_outputs = request.sampling.n or 1
    for position, token in enumerate(tokens, start=1):
        for index in range(num_outputs):
            chunk = pb.OutputChunk(
                request_id=request.request_id or "made-up-id",
                model=request.model or "fake",
                index=index,
                text=chr(token),
                token_ids=[token],
            )
            if request.sampling.HasField("logprobs"):
                chunk.logprobs.append(_certain(token))
            if position == len(tokens):
                chunk.finish_reason = (
                    pb.FINISH_REASON_LENGTH if is_cut else pb.FINISH_REASON_STOP
                )
                if index == num_outputs - 1:
                    chunk.usage.CopyFrom(_usage(request, len(tokens) * num_outputs))
            yield chunk


def _output(chunks: list[pb.OutputChunk], index: int) -> pb.Output:
    """One output's chunks as a whole."""
    own = [chunk for chunk in chunks if chunk.index == index]
    return pb.Output(
        index=index,
        text="".join(chunk.text for chunk in own),
        token_ids=[token_id for chunk in own for token_id in chunk.token_ids],
        finish_reason=own[-1].finish_reason,
        logprobs=[logprobs for chunk in own for logprobs in chunk.logprobs],
    )


def _certain(token: int) -> pb.TokenLogprobs:
    logprob = pb.TokenLogprob(token_id=token, logprob=0.0, text=chr(token), rank=1)
    return pb.TokenLogprobs(chosen=logprob, top=[logprob])


def _usage(request: Any, num_output_tokens: int) -> pb.Usage:
    if isinstance(request, pb.ChatRequest):
        num_prompt_tokens = len(_conversation(request.messages).encode())
    else:
        num_prompt_tokens = len(request.token_ids.ids) or len(request.text.encode())
    return pb.Usage(num_prompt_tokens=num_prompt_tokens, num_output_tokens=num_output_tokens)


def _conversation(messages: Any) -> str:
    return "".join(f"{message.role}: {message.content}\n" for message in messages)


@contextmanager
def serving(fake: FakeInference, port: int = 0) -> Iterator[str]:
    """Serve it on this machine; gives HOST:PORT. Port 0 takes a free one."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        inference_pb2_grpc.add_InferenceServicer_to_server(fake, server)
        address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        server.start()
        try:
            yield address
        finally:
            server.stop(grace=0).wait()
