"""A call that asks for an embedding: one vector for its prompt, from vLLM's pooler."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from vllm import PoolingParams
from vllm.inputs.engine import tokens_input
from vllm.outputs import PoolingRequestOutput

from deployments.types import Call, Embedding
from infra.errors import EngineError, InvalidArgumentError, field


class Encoder(Protocol):
    """What is needed of vLLM's `AsyncLLM`."""

    vllm_config: Any

    def encode(
        self, prompt: Any, pooling_params: PoolingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[PoolingRequestOutput[Any], None]:
        """Outputs of the prompt; the last one has the vector. Closing it aborts."""
        ...


async def embed(llm: Encoder, call: Call, **options: Any) -> Embedding:
    """The embedding of the call's prompt; `options` go to the engine as they are.

    Raises InvalidArgumentError for a length that the model's embeddings cannot have,
    EngineError where the vector is not made of numbers, and what vLLM raises.
    """
    assert call.pooling is not None
    dimensions = call.pooling.dimensions
    _check_dimensions(llm.vllm_config.model_config, dimensions)
    params = PoolingParams(task="embed", dimensions=dimensions)
    prompt = tokens_input(call.token_ids, cache_salt=call.cache_salt)
    async with aclosing(llm.encode(prompt, params, call.request_id, **options)) as outputs:
        async for output in outputs:
            if output.finished:
                return _to_embedding(output)
    raise EngineError("the engine made no embedding; try again")


def _to_embedding(output: PoolingRequestOutput[Any]) -> Embedding:
    vector = output.outputs.data.float().cpu()  # [num_dimensions]
    # JSON has no word for the others.
    if not vector.isfinite().all():
        raise EngineError("the embedding has values that are no numbers; see the model's dtype")
    return Embedding(
        index=0,
        text="",
        token_ids=[],
        finish_reason="stop",
        num_cached_tokens=output.num_cached_tokens or 0,
        vector=vector.numpy().tobytes(),
    )


def _check_dimensions(model: Any, dimensions: int | None) -> None:
    if dimensions is None:
        return
    name = field("dimensions")
    if not model.is_matryoshka:
        raise InvalidArgumentError(
            f"the model's embeddings cannot be shortened; leave out {name}", param="dimensions"
        )
    allowed = model.matryoshka_dimensions
    if allowed and dimensions not in allowed:
        raise InvalidArgumentError(
            f"{name} is {dimensions}; the model has {', '.join(map(str, allowed))}",
            param="dimensions",
        )
    if not 1 <= dimensions <= model.embedding_size:
        raise InvalidArgumentError(
            f"{name} is {dimensions}; it must be 1 to {model.embedding_size}",
            param="dimensions",
        )
