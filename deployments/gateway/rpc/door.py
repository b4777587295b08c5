"""The native gRPC door: `coterie.v1.Inference` over an `InferenceService`."""

from contextlib import aclosing

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc as pb_grpc
from deployments.gateway.rpc import messages
from deployments.gateway.rpc.answer import Context, answer, call_options
from deployments.gateway.rpc.stream_writer import CLIENT_TIMEOUT_S, StreamWriter
from deployments.gateway.service import Generation, InferenceService
from deployments.gateway.usage import UsageCounter
from deployments.gateway.whole import whole_outputs
from deployments.types import Embedding, Pooling
from infra.errors import InvalidArgumentError


class GrpcDoor(pb_grpc.InferenceServicer):
    """Translates; everything that decides is in the service."""

    def __init__(
        self, service: InferenceService, client_timeout_s: float = CLIENT_TIMEOUT_S
    ) -> None:
        """Streams end whose client takes nothing for `client_timeout_s`."""
        self._service = service
        self._client_timeout_s = client_timeout_s

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Stream of pieces; the client's end or deadline aborts the engine."""
        generation = await answer(context, self._generate(request, context, stream=True))
        stream = self._write_all(context, generation, _num_outputs(request.sampling))
        await answer(context, stream)

    async def GenerateUnary(
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.OutputResponse:
        """Whole outputs at once."""
        generation = await answer(context, self._generate(request, context, stream=False))
        return await answer(context, _collect(generation, _num_outputs(request.sampling)))

    async def Chat(self, request: pb.ChatRequest, context: Context) -> None:
        """Stream of pieces of the answer."""
        generation = await answer(context, self._chat(request, context, stream=True))
        stream = self._write_all(context, generation, _num_outputs(request.sampling))
        await answer(context, stream)

    async def ChatUnary(self, request: pb.ChatRequest, context: Context) -> pb.OutputResponse:
        """The whole answer at once."""
        generation = await answer(context, self._chat(request, context, stream=False))
        return await answer(context, _collect(generation, _num_outputs(request.sampling)))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """A vector for each input."""
        generation = await answer(context, self._embed(request, context))
        return await answer(context, _collect_embeddings(generation, len(request.inputs)))

    async def Tokenize(
        self, request: pb.TokenizeRequest, context: Context
    ) -> pb.TokenizeResponse:
        """Text or conversation to token ids."""
        return await answer(context, self._tokenize(request))

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Token ids to text."""
        return await answer(context, self._detokenize(request))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """All models and adapters."""
        return await answer(context, self._list_models())

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        """One model or adapter."""
        return await answer(context, self._get_model(request.name))

    async def _generate(
        self, request: pb.GenerateRequest, context: Context, *, stream: bool
    ) -> Generation:
        return await self._service.generate(
            request.model,
            messages.to_prompt(request),
            messages.to_sampling(request.sampling, request.output),
            call_options(context, request.request_id, stream=stream),
        )

    async def _chat(
        self, request: pb.ChatRequest, context: Context, *, stream: bool
    ) -> Generation:
        return await self._service.chat(
            request.model,
            messages.to_conversation(request),
            messages.to_sampling(request.sampling, request.output),
            call_options(context, request.request_id, stream=stream),
        )

    async def _embed(self, request: pb.EmbedRequest, context: Context) -> Generation:
        dimensions = request.dimensions if request.HasField("dimensions") else None
        return await self._service.embed(
            request.model,
            messages.to_prompts(request),
            Pooling(dimensions=dimensions),
            call_options(context, request.request_id, stream=False),
        )

    async def _write_all(
        self, context: Context, generation: Generation, num_outputs: int
    ) -> None:
        counter = UsageCounter(generation.num_prompt_tokens, num_outputs)
        writer = StreamWriter(context, self._client_timeout_s)
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                chunk = messages.to_chunk(delta, counter.add(delta))
                chunk.request_id = generation.request_id
                chunk.model = generation.model
                await writer.write(chunk)

    async def _tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        token_ids = await self._token_ids(request)
        card = self._service.model(request.model)
        return pb.TokenizeResponse(token_ids=token_ids, max_model_len=card.max_model_len)

    async def _token_ids(self, request: pb.TokenizeRequest) -> list[int]:
        if bool(request.messages) == bool(request.text):
            raise InvalidArgumentError("set exactly one of text and messages", param="text")
        if request.messages:
            return await self._service.tokenize_chat(
                request.model, messages.to_messages(request.messages)
            )
        return await self._service.tokenize(
            request.model, request.text, add_special_tokens=not request.without_special_tokens
        )

    async def _detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        text = await self._service.detokenize(
            request.model,
            list(request.token_ids),
            skip_special_tokens=request.skip_special_tokens,
        )
        return pb.DetokenizeResponse(text=text)

    async def _list_models(self) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[messages.to_model(card) for card in self._service.models()]
        )

    async def _get_model(self, name: str) -> pb.Model:
        return messages.to_model(self._service.model(name))


async def _collect(generation: Generation, num_outputs: int) -> pb.OutputResponse:
    counter = UsageCounter(generation.num_prompt_tokens, num_outputs)
    outputs = await whole_outputs(generation)
    for delta in outputs:
        counter.add(delta)
    return pb.OutputResponse(
        request_id=generation.request_id,
        model=generation.model,
        outputs=[messages.to_output(delta) for delta in outputs],
        usage=messages.to_usage(counter.usage),
    )


async def _collect_embeddings(generation: Generation, num_prompts: int) -> pb.EmbedResponse:
    response = pb.EmbedResponse(request_id=generation.request_id, model=generation.model)
    counter = UsageCounter(generation.num_prompt_tokens, num_prompts, outputs_per_prompt=1)
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            assert isinstance(delta, Embedding)
            response.embeddings.add(values=delta.values())
            counter.add(delta)
    response.usage.CopyFrom(messages.to_usage(counter.usage))
    return response


def _num_outputs(sampling: pb.SamplingParameters) -> int:
    return sampling.n if sampling.HasField("n") else 1
