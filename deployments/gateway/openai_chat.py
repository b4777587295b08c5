"""`/v1/chat/completions`: what only conversations have."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from deployments.gateway.openai_fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai_logprobs import ChatLogprobs, to_chat_logprobs
from deployments.gateway.openai_request import Count, GenerationRequest, to_sampling
from deployments.gateway.openai_response import Choice, choice_fields
from deployments.gateway.service import Generation, InferenceService
from deployments.types import CallOptions, ChatMessage, Delta, Sampling
from infra.errors import InvalidArgumentError

Empty = Annotated[list[Any], msgspec.Meta(max_length=0)]

CHAT_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **REFUSED_FIELDS,
    "add_special_tokens": Refusal("the chat template writes special tokens", (False,)),
}


class TextPart(
    msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True
):
    """A piece of a message's content."""

    text: str


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn. Fields that must be null stand in the answers that clients send back."""

    role: str
    content: str | list[TextPart]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_call_id: None = None
    tool_calls: Empty | None = None
    annotations: Empty | None = None

    def to_chat_message(self) -> ChatMessage:
        """The turn as the service takes it; parts are joined as vLLM joins them."""
        if isinstance(self.content, str):
            return ChatMessage(self.role, self.content)
        return ChatMessage(self.role, "\n".join(part.text for part in self.content))


class ChatRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation to be answered."""

    param_names: ClassVar[Mapping[str, str]] = {
        **GenerationRequest.param_names,
        "prompt": "messages",
        "logprobs": "top_logprobs",
    }

    messages: list[Message]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    async def start(self, service: InferenceService, options: CallOptions) -> Generation:
        """Submit it. Raises what `InferenceService.chat` raises."""
        return await service.chat(
            self.model or "",
            [message.to_chat_message() for message in self.messages],
            self._sampling(),
            msgspec.structs.replace(options, stream=bool(self.stream)),
            continue_final_message=self._continues(),
        )

    def shape(self) -> "ChatShape":
        """The shape of its answer."""
        return ChatShape(has_token_ids=bool(self.return_token_ids))

    def _sampling(self) -> Sampling:
        return to_sampling(
            self, max_tokens=self._max_tokens(), num_logprobs=self._num_logprobs()
        )

    def _max_tokens(self) -> int | None:
        wanted = {self.max_completion_tokens, self.max_tokens} - {None}
        if len(wanted) > 1:
            raise InvalidArgumentError(
                "max_tokens and max_completion_tokens differ; set one of them",
                param="max_tokens",
            )
        return next(iter(wanted), None)

    def _num_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidArgumentError(
                "top_logprobs needs logprobs to be true", param="top_logprobs"
            )
        return None

    def _continues(self) -> bool:
        continues = bool(self.continue_final_message)
        if self.add_generation_prompt is continues:
            raise InvalidArgumentError(
                "an answer is begun exactly where no message is continued; leave out "
                "add_generation_prompt",
                param="add_generation_prompt",
            )
        return continues


class AnswerMessage(msgspec.Struct, frozen=True):
    """The whole answer."""

    content: str
    role: str = "assistant"
    refusal: None = None


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds; the role stands in an output's first alone."""

    content: str
    role: str | UnsetType = UNSET


class WholeChatChoice(Choice, frozen=True, kw_only=True):
    """One output."""

    message: AnswerMessage
    logprobs: ChatLogprobs | None


class ChunkChatChoice(Choice, frozen=True, kw_only=True):
    """A piece of one output."""

    delta: ChatDelta
    logprobs: ChatLogprobs | None


class ChatShape:
    """Choices with messages; see `Shape`."""

    id_prefix: ClassVar[str] = "chatcmpl-"
    whole_object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, *, has_token_ids: bool) -> None:
        self._has_token_ids = has_token_ids
        self._begun: set[int] = set()

    def whole(self, delta: Delta) -> WholeChatChoice:
        """See `Shape.whole`."""
        return WholeChatChoice(message=AnswerMessage(delta.text), **self._shared(delta))

    def piece(self, delta: Delta) -> ChunkChatChoice:
        """See `Shape.piece`."""
        if delta.index in self._begun:
            added = ChatDelta(delta.text)
        else:
            self._begun.add(delta.index)
            added = ChatDelta(delta.text, "assistant")
        return ChunkChatChoice(delta=added, **self._shared(delta))

    def _shared(self, delta: Delta) -> dict[str, Any]:
        logprobs = to_chat_logprobs(delta.logprobs) if delta.logprobs else None
        return {
            "logprobs": logprobs,
            **choice_fields(delta, has_token_ids=self._has_token_ids),
        }
