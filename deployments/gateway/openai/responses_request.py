"""`/v1/responses`, what comes in: one turn of a conversation that the client keeps.

Nothing is stored here, so a request brings the whole conversation in `input`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from deployments.gateway.conversation_checks import MAX_MESSAGES, MAX_TOOLS
from deployments.gateway.openai.fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai.forms import JsonObjectFormat, TextFormat
from deployments.gateway.openai.request import BodyRequest, Count
from deployments.gateway.openai.tool_choice import ToolWish
from deployments.gateway.openai.tools import FunctionTool, ToolChoiceWord
from deployments.gateway.schemas import schema_text
from deployments.types import (
    ChatMessage,
    Conversation,
    Sampling,
    StructuredOutput,
    Tool,
    ToolCall,
)
from infra.errors import InvalidArgumentError

_STATELESS = "nothing is stored here; send the whole conversation in input"

# Of the fields that chat refuses, those that this API has.
_SHARED = ("moderation", "priority", "request_id", "cache_salt", "kv_transfer_params")

RESPONSES_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **{name: REFUSED_FIELDS[name] for name in _SHARED},
    "previous_response_id": Refusal(_STATELESS),
    "conversation": Refusal(_STATELESS),
    "prompt": Refusal(_STATELESS),
    "background": Refusal("an answer is given while the client waits", (False,)),
    "context_management": Refusal("a conversation is never cut; shorten it", ([],)),
    "include": Refusal("answers have nothing further", ([],)),
    "max_tool_calls": Refusal("it is about tools that the server runs, and it runs none"),
    "multi_agent": Refusal("it is not supported"),
    "reasoning": Refusal("reasoning is not told apart from the answer", ({},)),
    "top_logprobs": Refusal("use chat completions for logprobs", (0,)),
    "truncation": Refusal("a conversation is never cut; shorten it", ("disabled",)),
}


class InputText(
    msgspec.Struct, frozen=True, tag_field="type", tag="input_text", forbid_unknown_fields=True
):
    """A piece of what is said to the model."""

    text: str


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """A piece of what the model said, as the answer had it."""

    text: str


class InputItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message, a call that the model made, or what a call gave.

    The last two fields stand in the answers that clients send back.
    """

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: str | None = None
    content: str | list[InputText | OutputText] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputText | OutputText] | None = None
    id: str | None = None
    status: str | None = None


class ResponseTool(FunctionTool, frozen=True, tag_field="type", tag="function"):
    """One of `tools`; only functions of the client's own."""


class FunctionChoice(
    msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True
):
    """A `tool_choice` that demands one function."""

    name: str


class NamedSchema(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="json_schema",
    forbid_unknown_fields=True,
):
    """JSON that a schema describes; it is enforced whether `strict` is set or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the answer's text."""

    format: TextFormat | JsonObjectFormat | NamedSchema | None = None
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for padding only, and is ignored."""

    include_obfuscation: bool | None = None


class ResponsesRequest(BodyRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation to be answered; None means what leaving the field out means."""

    param_names: ClassVar[Mapping[str, str]] = {
        "messages": "input",
        "prompt": "input",
        "max_tokens": "max_output_tokens",
        "structured_output": "text.format",
    }

    input: str | Annotated[list[InputItem], msgspec.Meta(max_length=MAX_MESSAGES)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponseTool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceWord | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None

    def to_sampling(self) -> Sampling:
        """How the answer's tokens are chosen."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_output_tokens,
            structured_output=_to_form(self.text),
        )

    def to_wish(self) -> ToolWish:
        """What the tools ask for."""
        given = tuple(Tool(t.name, t.description, t.parameters) for t in self.tools or ())
        is_parallel = self.parallel_tool_calls is not False
        if isinstance(self.tool_choice, FunctionChoice):
            return ToolWish(given, "function", self.tool_choice.name, is_parallel)
        return ToolWish(given, self.tool_choice or "auto", is_parallel=is_parallel)

    def to_conversation(self, tools: tuple[Tool, ...]) -> Conversation:
        """The conversation, which opens with the instructions.

        Raises InvalidArgumentError that names the item at fault.
        """
        turns: list[ChatMessage] = []
        if self.instructions:
            turns.append(ChatMessage("system", self.instructions))
        if isinstance(self.input, str):
            turns.append(ChatMessage("user", self.input))
        else:
            for number, item in enumerate(self.input):
                _add_item(turns, item, f"input[{number}]")
        return Conversation(tuple(turns), tools)


def _add_item(turns: list[ChatMessage], item: InputItem, place: str) -> None:
    if item.type == "message":
        role = _given(item.role, f"{place}.role")
        turns.append(ChatMessage(role, _text(item.content, f"{place}.content")))
        return
    call_id = _given(item.call_id, f"{place}.call_id")
    if item.type == "function_call_output":
        output = _text(item.output, f"{place}.output")
        turns.append(ChatMessage("tool", output, (), call_id))
        return
    call = ToolCall(call_id, _given(item.name, f"{place}.name"), item.arguments or "{}")
    # Calls are items of their own here, and part of the model's turn in a template.
    last = turns.pop() if turns and turns[-1].role == "assistant" else None
    last = last or ChatMessage("assistant", "")
    turns.append(msgspec.structs.replace(last, tool_calls=(*last.tool_calls, call)))


def _given(value: str | None, place: str) -> str:
    if value is None:
        raise InvalidArgumentError(f"{place} is missing", param=place)
    return value


def _text(content: str | Sequence[InputText | OutputText] | None, place: str) -> str:
    if content is None:
        raise InvalidArgumentError(f"{place} is missing", param=place)
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content)


def _to_form(text: TextOptions | None) -> StructuredOutput | None:
    match None if text is None else text.format:
        case JsonObjectFormat():
            return StructuredOutput(json_object=True)
        case NamedSchema(schema=schema):
            return StructuredOutput(json_schema=schema_text(schema, "text.format"))
        case _:
            return None
