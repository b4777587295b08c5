"""Embeddings of several prompts, as one generation: each delta is one prompt's vector."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import NoReturn

import msgspec

from deployments.gateway.admission_gate import Admitting
from deployments.gateway.resume import Resume
from deployments.gateway.service import Generation
from deployments.settings import ModelSection
from deployments.types import Delta, Embedding
from infra.errors import (
    CoterieError,
    DeadlineError,
    InvalidArgumentError,
    PromptTooLongError,
    UnknownMethodError,
    field,
)

MAX_PROMPTS = 2048
"""As in OpenAI's interface."""

MAX_AT_A_TIME = 32
"""Prompts under way at a time, at most: so many as an engine can well work on."""


class EmbeddingGeneration:
    """A `Generation` of the embeddings of `generations`' prompts, in their order.

    They are admitted as one request, so that none is worked on in vain, and so many are
    under way at a time as it has places. One that fails fails all; leaving aborts all;
    all together have `timeout_s`.
    """

    def __init__(
        self, generations: Sequence[Generation], timeout_s: float, admission: Admitting
    ) -> None:
        first = generations[0]
        self.request_id = first.request_id
        self.model = first.model
        self.num_prompt_tokens = sum(each.num_prompt_tokens for each in generations)
        self.queue_s = 0.0
        self._generations = generations
        self._timeout_s = timeout_s
        self._admission = admission

    @property
    def has_begun(self) -> bool:
        """An engine has had one of them."""
        return any(each.has_begun for each in self._generations)

    @property
    def resumes(self) -> list[Resume]:
        """Those of all of them."""
        return [resume for each in self._generations for resume in each.resumes]

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """An `Embedding` for each prompt, its index the prompt's."""
        for embedding in await self._all():
            yield embedding

    async def _all(self) -> list[Embedding]:
        found: dict[int, Embedding] = {}
        left = iter(enumerate(self._generations))
        asked_s = time.monotonic()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._admission(self._timeout_s) as admitted,
            ):
                self.queue_s = time.monotonic() - asked_s
                num_lanes = MAX_AT_A_TIME if admitted is None else admitted.num_places
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(num_lanes, len(self._generations))):
                        group.create_task(_lane(left, found))
        except TimeoutError as error:
            raise DeadlineError(f"not finished within {self._timeout_s:g} s") from error
        except ExceptionGroup as group_error:
            _raise_first(group_error)
        return [found[index] for index in range(len(found))]


async def _lane(left: Iterator[tuple[int, Generation]], found: dict[int, Embedding]) -> None:
    """One of the prompts under way at a time, and the next when it has its vector."""
    for index, generation in left:
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                assert isinstance(delta, Embedding)
                found[index] = msgspec.structs.replace(delta, index=index)


def _raise_first(group: ExceptionGroup[Exception]) -> NoReturn:
    """What the client is told: the first failure of the tree, else the first of all."""
    ours = [error for error in group.exceptions if isinstance(error, CoterieError)]
    raise (ours or group.exceptions)[0] from None


def check_task(section: ModelSection, name: str, *, is_embedding: bool) -> None:
    """Raises UnknownMethodError where the model is served for the other task."""
    if is_embedding and section.task != "embed":
        raise UnknownMethodError(
            f"{name} is served to generate text; to embed with it, the operator sets "
            "task: embed for a model of its own",
            param="model",
        )
    if not is_embedding and section.task != "generate":
        raise UnknownMethodError(
            f"{name} is served for embeddings alone; use /v1/embeddings over HTTP, or "
            "coterie.v1.Inference/Embed over gRPC",
            param="model",
        )


def check_prompts(num_prompts: int) -> None:
    """From one prompt to `MAX_PROMPTS`. Raises InvalidArgumentError."""
    name = field("prompt")
    if not num_prompts:
        raise InvalidArgumentError(f"{name} is empty; give at least one", param="prompt")
    if num_prompts > MAX_PROMPTS:
        raise InvalidArgumentError(
            f"{name} has {num_prompts} entries; send at most {MAX_PROMPTS} in one request",
            param="prompt",
        )


def check_length(num_prompt_tokens: int, max_model_len: int) -> None:
    """The prompt has tokens, and fits. Raises InvalidArgumentError, PromptTooLongError."""
    if num_prompt_tokens == 0:
        raise InvalidArgumentError("a prompt has no tokens; give some text", param="prompt")
    if num_prompt_tokens > max_model_len:
        raise PromptTooLongError(
            f"this model's maximum context length is {max_model_len} tokens, and a prompt has "
            f"{num_prompt_tokens}; shorten or split it",
            param="prompt",
        )
