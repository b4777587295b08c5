"""A conversation as chat templates read it: turns and tools as mappings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.gateway.schemas import NO_ARGUMENTS
from deployments.types import ChatMessage, Tool, ToolCall
from infra.errors import ConfigError, InvalidArgumentError


def read_template(path: Path) -> str:
    """The operator's own chat template. Raises ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"chat_template_file {path} cannot be read: {error}; it must be a text file on "
            "each node that a gateway runs on"
        ) from error


def to_turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """One mapping a turn, in the form that Hugging Face's templates share.

    Raises InvalidArgumentError for a tool call whose arguments are no JSON object.
    """
    return [_to_turn(message) for message in messages]


def to_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Functions in OpenAI's form, which templates print; None where there are none."""
    return [_to_tool(tool) for tool in tools] or None


def _to_turn(message: ChatMessage) -> dict[str, Any]:
    # Templates know the newer word by the older one.
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_to_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _to_call(call: ToolCall) -> dict[str, Any]:
    # Templates write the arguments as JSON themselves.
    function = {"name": call.name, "arguments": _to_arguments(call)}
    return {"id": call.call_id, "type": "function", "function": function}


def _to_arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidArgumentError(
            f"the arguments of tool call {call.call_id[:64]!r} are no JSON object",
            param="messages",
        )
    return arguments


def _to_tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or NO_ARGUMENTS
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}
