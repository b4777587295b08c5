"""What is asked of vLLM for an embedding, and what is made of its answer."""

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import PoolingParams
from vllm.outputs import PoolingOutput, PoolingRequestOutput

from deployments.engine.embedding import embed
from deployments.types import Call, Embedding, Pooling, Sampling
from infra.errors import EngineError, InvalidArgumentError

# Importing vLLM takes some 8 s.
pytestmark = pytest.mark.model


class FakeEncoder:
    """Answers with its vector; records what it was asked."""

    def __init__(self, vector: list[float], **model: Any) -> None:
        about = {"is_matryoshka": False, "matryoshka_dimensions": None, "embedding_size": 8}
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(**(about | model)))
        self.asked: list[tuple[Any, PoolingParams, str, dict[str, Any]]] = []
        self._data = torch.tensor(vector, dtype=torch.bfloat16)

    async def encode(
        self, prompt: Any, pooling_params: PoolingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[PoolingRequestOutput[Any], None]:
        self.asked.append((prompt, pooling_params, request_id, options))
        yield PoolingRequestOutput(
            request_id, PoolingOutput(self._data), prompt["prompt_token_ids"], 16, True
        )


def call(dimensions: int | None = None) -> Call:
    return Call("r", [1, 2], Sampling(), cache_salt="t", pooling=Pooling(dimensions))


async def test_the_vector_is_float32_whatever_the_models_type() -> None:
    encoder = FakeEncoder([1.0, -2.0])
    found = await embed(encoder, call(), lora_request=None)
    vector = b"\x00\x00\x80?\x00\x00\x00\xc0"
    assert found == Embedding(
        index=0,
        text="",
        token_ids=[],
        finish_reason="stop",
        num_cached_tokens=16,
        vector=vector,
    )
    ((prompt, params, request_id, options),) = encoder.asked
    assert (prompt["prompt_token_ids"], prompt["cache_salt"]) == ([1, 2], "t")
    assert (params.task, params.dimensions, request_id) == ("embed", None, "r")
    assert options == {"lora_request": None}


async def test_a_vector_that_is_no_number_is_a_failure_of_the_engine() -> None:
    with pytest.raises(EngineError, match="no numbers"):
        await embed(FakeEncoder([1.0, float("nan")]), call())


@pytest.mark.parametrize(
    ("model", "dimensions", "words"),
    [
        ({}, 4, "cannot be shortened; leave out dimensions"),
        ({"is_matryoshka": True}, 9, "it must be 1 to 8"),
        ({"is_matryoshka": True}, 0, "it must be 1 to 8"),
        ({"is_matryoshka": True, "matryoshka_dimensions": [2, 4]}, 3, "the model has 2, 4"),
    ],
)
async def test_a_length_that_the_model_has_not_is_refused(
    model: dict[str, Any], dimensions: int, words: str
) -> None:
    encoder = FakeEncoder([1.0], **model)
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        await embed(encoder, call(dimensions))
    assert (caught.value.param, encoder.asked) == ("dimensions", [])


@pytest.mark.parametrize("allowed", [None, [2, 4]])
async def test_a_matryoshka_model_shortens(allowed: list[int] | None) -> None:
    encoder = FakeEncoder([1.0], is_matryoshka=True, matryoshka_dimensions=allowed)
    await embed(encoder, call(4))
    assert encoder.asked[0][1].dimensions == 4
