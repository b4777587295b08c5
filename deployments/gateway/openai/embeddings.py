"""`/v1/embeddings`: texts in, vectors out."""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from typing import ClassVar, Literal

import msgspec

from deployments.gateway.checks import check_text_size
from deployments.gateway.http.exchange import Exchange
from deployments.gateway.openai.completion import to_prompts
from deployments.gateway.openai.fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai.request import BodyRequest, Count
from deployments.gateway.service import InferenceService
from deployments.types import CallOptions, Embedding, Pooling
from infra.errors import InvalidArgumentError, field

EMBEDDING_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **REFUSED_FIELDS,
    "add_special_tokens": Refusal("send the input as token ids instead", (True,)),
    "embed_dtype": Refusal("vectors are float32", ("float32",)),
    "endianness": Refusal("vectors are little-endian", ("little", "native")),
    "messages": Refusal("send texts as input", ([],)),
    "normalize": Refusal("it is the model's to decide"),
    "use_activation": Refusal("it is the model's to decide"),
}


class EmbeddingRequest(BodyRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts or lists of token ids, one or several; each gets a vector."""

    param_names: ClassVar[Mapping[str, str]] = {"prompt": "input"}

    input: str | list[Count | str | list[Count]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None


class EmbeddingAnswer:
    """What the path does with a request."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def __call__(
        self, exchange: Exchange, options: CallOptions, request: EmbeddingRequest
    ) -> None:
        """Embed all inputs, and answer whole."""
        if not request.input:
            raise InvalidArgumentError(
                f"{field('prompt')} is empty; give some text", param="prompt"
            )
        prompts = to_prompts(request.input)
        check_text_size(sum(len(p) for p in prompts if isinstance(p, str)), "prompt")
        options = msgspec.structs.replace(options, stream=False)
        generation = await self._service.embed(
            request.model or "", prompts, Pooling(dimensions=request.dimensions), options
        )
        async with aclosing(generation.deltas()) as deltas:
            found = [delta async for delta in deltas if isinstance(delta, Embedding)]
        num_tokens = generation.num_prompt_tokens
        body = EmbeddingList(
            data=[
                _to_data(each, is_base64=request.encoding_format == "base64") for each in found
            ],
            model=generation.model,
            usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )
        await exchange.answer(200, msgspec.json.encode(body))


class EmbeddingData(msgspec.Struct, frozen=True, kw_only=True):
    """One input's vector: numbers, or the base64 of their float32 bytes."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str  # [num_dimensions]


class EmbeddingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingData]
    model: str
    usage: EmbeddingUsage


def _to_data(embedding: Embedding, *, is_base64: bool) -> EmbeddingData:
    if is_base64:
        return EmbeddingData(
            index=embedding.index, embedding=b64encode(embedding.vector).decode()
        )
    return EmbeddingData(index=embedding.index, embedding=embedding.values())
