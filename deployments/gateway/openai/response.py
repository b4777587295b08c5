"""What chat and completions answers have in common, encoded without detours.

A stream's chunks differ in their one choice alone: what stands before and
behind it is encoded once for each request.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from deployments.gateway.service import Generation
from deployments.gateway.usage import UsageCounter
from deployments.types import Delta, FinishReason, ModelCard, Usage
from infra.errors import EngineError

UsageIn = Literal["none", "last", "each"]
"""Which chunks of a stream carry the usage: none, one of its own after the last
output, or besides that each with the counts so far."""

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the choices of all shapes have; the last two are vLLM's additions."""

    index: int
    finish_reason: FinishReason | Literal["tool_calls"] | None
    stop_reason: int | str | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


def choice_fields(delta: Delta, *, has_token_ids: bool) -> dict[str, Any]:
    """Values of the fields of `Choice`."""
    return {
        "index": delta.index,
        "finish_reason": delta.finish_reason,
        "stop_reason": UNSET if delta.stop_reason is None else delta.stop_reason,
        "token_ids": delta.token_ids if has_token_ids else UNSET,
    }


def check_not_aborted(delta: Delta) -> None:
    """Raises EngineError where the cluster aborted the request: OpenAI's clients know no
    such finish reason, and the output is not whole.
    """
    if delta.finish_reason == "abort":
        raise EngineError("the request was aborted in the cluster; try again")


class Shape(Protocol):
    """The choices of one answer; it may remember what its stream has sent."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, delta: Delta) -> Choice:
        """The choice of a finished output, from its only delta."""
        ...

    def piece(self, delta: Delta) -> Choice:
        """The choice of a chunk; call it once for each delta, in order."""
        ...


class Started(NamedTuple):
    """A request that the service has taken, and the shape of its answer."""

    generation: Generation
    shape: Shape
    num_prompts: int = 1


class PromptDetails(msgspec.Struct, frozen=True):
    """How much of the prompt came from the prefix cache."""

    cached_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    """Counts of tokens under OpenAI's names."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class AnswerBody(msgspec.Struct, frozen=True):
    """A whole answer; `choices` are the shape's."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[Choice]
    usage: UsageBody


class ModelBody(msgspec.Struct, frozen=True):
    """One served model; `root`, `parent` and `max_model_len` are vLLM's additions."""

    id: str
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    object: str = "model"


class Reply:
    """Encodes the answer to one request, whole or chunk by chunk."""

    def __init__(
        self,
        shape: Shape,
        generation: Generation,
        *,
        num_outputs: int,
        num_prompts: int,
        usage_in: UsageIn,
        created_s: int,
    ) -> None:
        self._shape = shape
        self._usage = UsageCounter(
            generation.num_prompt_tokens, num_outputs * num_prompts, num_outputs
        )
        self._envelope: dict[str, Any] = {
            "id": shape.id_prefix + generation.request_id,
            "created": created_s,
            "model": generation.model,
        }
        chunk = _encode(self._envelope | {"object": shape.chunk_object})
        self._head = b"data: " + chunk[:-1] + b',"choices":['
        self._usage_in = usage_in
        self._tail = b"]}\n\n" if usage_in == "none" else b'],"usage":null}\n\n'

    @property
    def has_usage_chunk(self) -> bool:
        """The stream ends with `usage_chunk`."""
        return self._usage_in != "none"

    def whole(self, deltas: Iterable[Delta]) -> bytes:
        """JSON of the whole answer; each output is one delta."""
        ordered = list(deltas)
        for delta in ordered:
            self._count(delta)
        return _encode(
            AnswerBody(
                **self._envelope,
                object=self._shape.whole_object,
                choices=[self._shape.whole(delta) for delta in ordered],
                usage=_to_usage(self._usage.usage),
            )
        )

    def chunk(self, delta: Delta) -> bytes:
        """The event of one delta. Raises EngineError where the cluster aborted it."""
        self._count(delta)
        piece = _encode(self._shape.piece(delta))
        tail = self._usage_tail() if self._usage_in == "each" else self._tail
        return b"".join((self._head, piece, tail))

    def usage_chunk(self) -> bytes:
        """The event after the last delta: no choices, the whole request's usage."""
        return self._head + self._usage_tail()

    def _usage_tail(self) -> bytes:
        usage = _encode(_to_usage(self._usage.usage))
        return b"".join((b'],"usage":', usage, b"}\n\n"))

    def _count(self, delta: Delta) -> None:
        check_not_aborted(delta)
        self._usage.add(delta)


def encode_models(cards: Sequence[ModelCard]) -> bytes:
    """JSON of the list of models."""
    return _encode({"object": "list", "data": [_to_model(card) for card in cards]})


def encode_model(card: ModelCard) -> bytes:
    """JSON of one model."""
    return _encode(_to_model(card))


def _to_model(card: ModelCard) -> ModelBody:
    return ModelBody(
        id=card.name,
        created=card.created_s,
        owned_by="coterie",
        root=card.reference,
        parent=card.base_model,
        max_model_len=card.max_model_len,
    )


def _to_usage(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
        prompt_tokens_details=PromptDetails(usage.num_cached_tokens),
    )
