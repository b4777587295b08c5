"""`/v1/chat/completions`: what only conversations have."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from deployments.gateway.conversation_checks import MAX_MESSAGES, MAX_TOOLS
from deployments.gateway.openai.fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai.logprobs import ChatLogprobs, to_chat_logprobs
from deployments.gateway.openai.request import Count, GenerationRequest, to_sampling
from deployments.gateway.openai.response import Choice, Started, choice_fields
from deployments.gateway.openai.tool_choice import plan_for_model
from deployments.gateway.openai.tool_parser import ToolParser
from deployments.gateway.openai.tools import (
    NamedChoice,
    OutputReader,
    Reading,
    ToolCallItem,
    ToolCallPiece,
    ToolChoiceWord,
    ToolItem,
    to_call_items,
    to_call_pieces,
    to_wish,
)
from deployments.gateway.service import InferenceService
from deployments.settings import GatewaySection
from deployments.types import CallOptions, ChatMessage, Conversation, Delta, Sampling
from infra.errors import InvalidArgumentError

Empty = Annotated[list[Any], msgspec.Meta(max_length=0)]

CHAT_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **REFUSED_FIELDS,
    "add_special_tokens": Refusal("the chat template writes special tokens", (False,)),
}


class ContentPart(
    msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True
):
    """A piece of a message's content."""

    text: str


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn. Fields that must be null stand in the answers that clients send back."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCallItem] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Empty | None = None

    def to_chat_message(self, place: str) -> ChatMessage:
        """The turn as the service takes it; parts are joined as vLLM joins them.

        Raises InvalidArgumentError, which names `place`, for a turn without content.
        """
        if self.content is None and not self.tool_calls:
            raise InvalidArgumentError(f"{place}.content is missing", param=f"{place}.content")
        if self.tool_calls and self.role != "assistant":
            raise InvalidArgumentError(
                "only messages of role assistant have tool_calls", param=f"{place}.tool_calls"
            )
        if (self.tool_call_id is None) is (self.role == "tool"):
            raise InvalidArgumentError(
                "messages of role tool have a tool_call_id, and no others",
                param=f"{place}.tool_call_id",
            )
        return ChatMessage(
            self.role,
            self._text(),
            tuple(call.to_tool_call() for call in self.tool_calls or ()),
            self.tool_call_id,
            self.name,
        )

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation to be answered."""

    param_names: ClassVar[Mapping[str, str]] = {
        **GenerationRequest.param_names,
        "prompt": "messages",
        "logprobs": "top_logprobs",
    }

    messages: Annotated[list[Message], msgspec.Meta(max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: Annotated[list[ToolItem], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceWord | NamedChoice | None = None
    parallel_tool_calls: bool | None = None

    async def start(
        self, service: InferenceService, options: CallOptions, _: GatewaySection
    ) -> Started:
        """Submit it. Raises what `InferenceService.chat` raises."""
        wish = to_wish(self.tools, self.tool_choice, self.parallel_tool_calls)
        plan = plan_for_model(wish, service, self.model or "")
        conversation = Conversation(
            tuple(m.to_chat_message(f"messages[{i}]") for i, m in enumerate(self.messages)),
            plan.shown,
            self._continues(),
        )
        generation = await service.chat(
            self.model or "",
            conversation,
            plan.fitted(self._sampling()),
            msgspec.structs.replace(options, stream=bool(self.stream)),
        )
        shape = ChatShape(plan.new_parser, has_token_ids=bool(self.return_token_ids))
        return Started(generation, shape)

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
    """The whole answer; its content is null where there are calls alone."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[ToolCallItem] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds; the role stands in an output's first alone."""

    content: str | UnsetType
    role: str | UnsetType = UNSET
    tool_calls: list[ToolCallPiece] | UnsetType = UNSET


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

    def __init__(
        self, new_parser: Callable[[], ToolParser] | None, *, has_token_ids: bool
    ) -> None:
        self._new_parser = new_parser
        self._has_token_ids = has_token_ids
        self._begun: set[int] = set()
        self._readers: dict[int, OutputReader] = {}

    def whole(self, delta: Delta) -> WholeChatChoice:
        """See `Shape.whole`."""
        text, pieces = self._read(delta)
        message = AnswerMessage(text)
        if pieces:
            message = AnswerMessage(text or None, tool_calls=to_call_items(pieces))
        return WholeChatChoice(message=message, **self._shared(delta))

    def piece(self, delta: Delta) -> ChunkChatChoice:
        """See `Shape.piece`."""
        text, pieces = self._read(delta)
        added = ChatDelta(
            text if text or self._new_parser is None else UNSET,
            UNSET if delta.index in self._begun else "assistant",
            to_call_pieces(pieces) if pieces else UNSET,
        )
        self._begun.add(delta.index)
        return ChunkChatChoice(delta=added, **self._shared(delta))

    def _read(self, delta: Delta) -> Reading:
        if self._new_parser is None:
            return Reading(delta.text, [])
        if delta.index not in self._readers:
            self._readers[delta.index] = OutputReader(self._new_parser())
        return self._readers[delta.index].read(delta)

    def _shared(self, delta: Delta) -> dict[str, Any]:
        logprobs = to_chat_logprobs(delta.logprobs) if delta.logprobs else None
        fields = choice_fields(delta, has_token_ids=self._has_token_ids)
        reader = self._readers.get(delta.index)
        if reader is not None and reader.has_calls and delta.finish_reason == "stop":
            fields["finish_reason"] = "tool_calls"
        return {"logprobs": logprobs, **fields}
