"""`/v1/responses`, what goes out: the answer, its items, and the events that tell of them."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from deployments.gateway.openai.responses_request import (
    FunctionChoice,
    ResponseTool,
    TextOptions,
)
from deployments.types import Usage

Status = Literal["in_progress", "completed", "incomplete"]


class OutputPart(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of a message."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """Text that the model wrote."""

    id: str
    status: Status
    content: tuple[OutputPart, ...]
    role: str = "assistant"


class CallItem(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    """A call that the model made; `arguments` is the text of a JSON object."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


Item = MessageItem | CallItem


class InputDetails(msgspec.Struct, frozen=True):
    """How much of the input came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Reasoning is not told apart from the answer."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Counts of tokens under this API's names."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why an answer ends before its end."""

    reason: str


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, whole or as far as it is; what it was asked with stands in it too."""

    id: str
    created_at: int
    status: Status
    model: str
    output: Sequence[Item]
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    text: TextOptions
    tools: Sequence[ResponseTool]
    tool_choice: str | FunctionChoice
    parallel_tool_calls: bool
    metadata: dict[str, str]
    usage: ResponseUsage | None = None
    incomplete_details: IncompleteDetails | None = None
    object: str = "response"
    error: None = None
    previous_response_id: None = None
    background: bool = False
    store: bool = False
    truncation: str = "disabled"


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Tells of the whole answer: created, in_progress, completed, incomplete."""

    type: str
    response: ResponseBody


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Tells of an item: added, done."""

    type: str
    output_index: int
    item: Item


class PartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Tells of a message's only part: added, done."""

    type: str
    output_index: int
    item_id: str
    part: OutputPart
    content_index: int = 0


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More text of a message."""

    output_index: int
    item_id: str
    delta: str
    type: str = "response.output_text.delta"
    content_index: int = 0
    logprobs: list[Any] = []


class TextDone(msgspec.Struct, frozen=True, kw_only=True):
    """A message's whole text."""

    output_index: int
    item_id: str
    text: str
    type: str = "response.output_text.done"
    content_index: int = 0
    logprobs: list[Any] = []


class ArgumentsDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call's arguments."""

    output_index: int
    item_id: str
    delta: str
    type: str = "response.function_call_arguments.delta"


class ArgumentsDone(msgspec.Struct, frozen=True, kw_only=True):
    """A call's whole arguments."""

    output_index: int
    item_id: str
    name: str
    arguments: str
    type: str = "response.function_call_arguments.done"


Event = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ArgumentsDelta
    | ArgumentsDone
)


def to_response_usage(usage: Usage) -> ResponseUsage:
    """The counts of a request."""
    return ResponseUsage(
        input_tokens=usage.num_prompt_tokens,
        input_tokens_details=InputDetails(usage.num_cached_tokens),
        output_tokens=usage.num_output_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
    )
