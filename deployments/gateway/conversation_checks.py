"""What a conversation may have: counts and sizes of its turns and its tools."""

import re
from collections.abc import Mapping, Sequence

from deployments.gateway.checks import check_text_size
from deployments.gateway.schemas import check_depth, num_bytes
from deployments.types import ChatMessage, Conversation, Tool
from infra.errors import InvalidArgumentError, field

MAX_MESSAGES = 4096
MAX_ROLE_CHARS = 64
MAX_NAME_CHARS = 64
MAX_CALL_ID_CHARS = 256
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
"""Of one turn."""
MAX_TOOLS_CHARS = 256 * 1024
"""Of all tools of a request: names, descriptions, schemas."""
# OpenAI's limits of what clients keep with an answer.
MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_conversation(conversation: Conversation) -> None:
    """Counts and sizes of turns and tools. Raises InvalidArgumentError."""
    messages = conversation.messages
    if not messages:
        raise InvalidArgumentError(
            f"{field('messages')} is empty; give at least one", param="messages"
        )
    if len(messages) > MAX_MESSAGES:
        raise InvalidArgumentError(
            f"{field('messages')} has over {MAX_MESSAGES} entries", param="messages"
        )
    for message in messages:
        _check_message(message)
    check_text_size(sum(map(_message_chars, messages)), "messages")
    check_tools(conversation.tools)


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Count and sizes of what is given back with the answer."""
    if len(metadata) > MAX_METADATA:
        raise InvalidArgumentError(
            f"{field('metadata')} has over {MAX_METADATA} entries", param="metadata"
        )
    longest_key = max(map(len, metadata), default=0)
    longest_value = max(map(len, metadata.values()), default=0)
    if longest_key > MAX_METADATA_KEY_CHARS or longest_value > MAX_METADATA_VALUE_CHARS:
        raise InvalidArgumentError(
            f"{field('metadata')} has a key of over {MAX_METADATA_KEY_CHARS} characters, or a "
            f"value of over {MAX_METADATA_VALUE_CHARS}",
            param="metadata",
        )


def _check_message(message: ChatMessage) -> None:
    if not message.role:
        raise InvalidArgumentError("a message has no role", param="messages")
    if len(message.role) > MAX_ROLE_CHARS:
        raise InvalidArgumentError(
            f"a message has a role of over {MAX_ROLE_CHARS} characters", param="messages"
        )
    if len(message.name or "") > MAX_NAME_CHARS:
        raise InvalidArgumentError(
            f"a message has a name of over {MAX_NAME_CHARS} characters", param="messages"
        )
    if len(message.tool_calls) > MAX_TOOL_CALLS:
        raise InvalidArgumentError(
            f"a message has over {MAX_TOOL_CALLS} tool calls", param="messages"
        )
    call_ids = [message.tool_call_id or "", *(call.call_id for call in message.tool_calls)]
    if any(len(call_id) > MAX_CALL_ID_CHARS for call_id in call_ids):
        raise InvalidArgumentError(
            f"a message has a tool call's id of over {MAX_CALL_ID_CHARS} characters",
            param="messages",
        )


def _message_chars(message: ChatMessage) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return len(message.content) + calls


def check_tools(tools: Sequence[Tool]) -> None:
    """Names, count and sizes. Raises InvalidArgumentError."""
    if len(tools) > MAX_TOOLS:
        raise InvalidArgumentError(
            f"{field('tools')} has over {MAX_TOOLS} entries", param="tools"
        )
    names = [tool.name for tool in tools]
    wrong = next((name for name in names if not _TOOL_NAME.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidArgumentError(
            f"a tool is named {wrong[:64]!r}; use 1 to 64 letters, digits and any of _ . -",
            param="tools",
        )
    if len(set(names)) < len(names):
        raise InvalidArgumentError("two tools have the same name", param="tools")
    if num_bytes(tools, "tools") > MAX_TOOLS_CHARS:
        raise InvalidArgumentError(
            f"{field('tools')} takes over {MAX_TOOLS_CHARS} bytes as JSON", param="tools"
        )
    for tool in tools:
        check_depth(tool.parameters, "tools")
