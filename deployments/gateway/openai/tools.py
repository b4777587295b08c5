"""Tools and tool calls as `/v1/chat/completions` writes them, in and out."""

import secrets
import string
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from deployments.gateway.openai.tool_choice import ToolWish
from deployments.gateway.openai.tool_parser import CallPiece, Piece, TextPiece, ToolParser
from deployments.types import Delta, Tool, ToolCall

_ID_CHARACTERS = string.ascii_letters + string.digits


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function; a demanded call obeys its schema whether `strict` is set or not."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolItem(
    msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True
):
    """One of `tools`."""

    function: FunctionTool


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Says which function."""

    name: str


class NamedChoice(
    msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True
):
    """A `tool_choice` that demands one function."""

    function: FunctionName


ToolChoiceWord = Literal["none", "auto", "required"]


class FunctionCall(msgspec.Struct, frozen=True):
    """What is called, with the text of a JSON object."""

    name: str
    arguments: str


class ToolCallItem(msgspec.Struct, frozen=True):
    """One of a message's `tool_calls`."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"

    def to_tool_call(self) -> ToolCall:
        """As the service takes it."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


class FunctionPiece(msgspec.Struct, frozen=True):
    """What a chunk adds to a call: its first has the name."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallPiece(msgspec.Struct, frozen=True):
    """One of a chunk's `tool_calls`: a call's first has its id and type."""

    index: int
    function: FunctionPiece
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


def to_wish(
    tools: Sequence[ToolItem] | None,
    choice: ToolChoiceWord | NamedChoice | None,
    parallel: bool | None,
) -> ToolWish:
    """What a request's tools ask for."""
    given = tuple(_to_tool(item.function) for item in tools or ())
    is_parallel = parallel is not False
    if isinstance(choice, NamedChoice):
        return ToolWish(given, "function", choice.function.name, is_parallel)
    return ToolWish(given, choice or "auto", is_parallel=is_parallel)


def new_call_id() -> str:
    """An id for a call: nine letters and digits, since Mistral's templates refuse others."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


class Reading(NamedTuple):
    """What a delta adds to an output: text, and pieces of calls."""

    text: str
    calls: list[CallPiece]


class OutputReader:
    """Tells text from calls in one output, delta by delta."""

    def __init__(self, parser: ToolParser) -> None:
        self._parser = parser
        self.has_calls = False

    def read(self, delta: Delta) -> Reading:
        """What is certain after this delta; all of it after the output's last."""
        pieces = read_pieces(self._parser, delta)
        calls = [piece for piece in pieces if isinstance(piece, CallPiece)]
        self.has_calls = self.has_calls or bool(calls)
        text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
        return Reading(text, calls)


def read_pieces(parser: ToolParser, delta: Delta) -> list[Piece]:
    """What the parser finds in the output's next delta; all that is left in its last."""
    pieces = parser.feed(delta.text)
    return pieces if delta.finish_reason is None else pieces + parser.finish()


def whole_calls(pieces: Sequence[CallPiece]) -> list[FunctionCall]:
    """The calls that the pieces make up, in order."""
    names = [piece.name for piece in pieces if piece.name is not None]
    arguments: list[list[str]] = [[] for _ in names]
    for piece in pieces:
        arguments[piece.index].append(piece.arguments)
    return [
        FunctionCall(name, "".join(own)) for name, own in zip(names, arguments, strict=True)
    ]


def to_call_items(pieces: Sequence[CallPiece]) -> list[ToolCallItem]:
    """The same as a whole message has them."""
    return [ToolCallItem(new_call_id(), call) for call in whole_calls(pieces)]


def to_call_pieces(pieces: Sequence[CallPiece]) -> list[ToolCallPiece]:
    """The pieces as a chunk has them."""
    return [_to_call_piece(piece) for piece in pieces]


def _to_call_piece(piece: CallPiece) -> ToolCallPiece:
    if piece.name is None:
        return ToolCallPiece(piece.index, FunctionPiece(piece.arguments))
    function = FunctionPiece(piece.arguments, piece.name)
    return ToolCallPiece(piece.index, function, new_call_id(), "function")


def _to_tool(given: FunctionTool) -> Tool:
    return Tool(given.name, given.description, given.parameters)
