"""`/v1/responses`: one request from its JSON to its answer or its events."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from deployments.gateway.conversation_checks import check_metadata
from deployments.gateway.http.exchange import Exchange
from deployments.gateway.openai.forms import TextFormat
from deployments.gateway.openai.response import check_not_aborted
from deployments.gateway.openai.responses_items import (
    ArgumentsDelta,
    ArgumentsDone,
    CallItem,
    Event,
    IncompleteDetails,
    Item,
    ItemEvent,
    MessageItem,
    OutputPart,
    PartEvent,
    ResponseBody,
    ResponseEvent,
    Status,
    TextDelta,
    TextDone,
    to_response_usage,
)
from deployments.gateway.openai.responses_request import ResponsesRequest, TextOptions
from deployments.gateway.openai.tool_choice import ToolPlan, plan_for_model
from deployments.gateway.openai.tool_parser import CallPiece, Piece, TextPiece
from deployments.gateway.openai.tools import new_call_id, read_pieces
from deployments.gateway.service import Generation, InferenceService
from deployments.gateway.usage import UsageCounter
from deployments.types import CallOptions, Delta

_encode = msgspec.json.Encoder().encode


class ResponsesAnswer:
    """What the path does with a request."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def __call__(
        self, exchange: Exchange, options: CallOptions, request: ResponsesRequest
    ) -> None:
        """Submit it, and answer whole or event by event."""
        check_metadata(request.metadata or {})
        plan = plan_for_model(request.to_wish(), self._service, request.model or "")
        generation = await self._service.chat(
            request.model or "",
            request.to_conversation(plan.shown),
            plan.fitted(request.to_sampling()),
            msgspec.structs.replace(options, stream=bool(request.stream)),
        )
        writer = ResponseWriter(request, generation, plan, created_s=int(time.time()))
        async with aclosing(writer.events()) as events:
            if request.stream:
                await _stream(exchange, events)
                return
            async for _ in events:
                pass
        await exchange.answer(200, _encode(writer.body()))


class ResponseWriter:
    """Makes the items of one answer out of its deltas, and tells of each step."""

    def __init__(
        self, request: ResponsesRequest, generation: Generation, plan: ToolPlan, created_s: int
    ) -> None:
        self._request = request
        self._generation = generation
        self._created_s = created_s
        self._parser = plan.new_parser() if plan.new_parser is not None else None
        self._usage = UsageCounter(generation.num_prompt_tokens, 1)
        self._status: Status = "in_progress"
        self._items: list[Item] = []
        self._open: Item | None = None
        self._pieces: list[str] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every event, in order. Raises EngineError where the cluster aborted the request."""
        async with aclosing(self._generation.deltas()) as deltas:
            is_begun = False
            async for delta in deltas:
                if not is_begun:
                    # Not before the first delta: a failure until then is a status.
                    yield ResponseEvent(type="response.created", response=self.body())
                    yield ResponseEvent(type="response.in_progress", response=self.body())
                    is_begun = True
                for event in self._on_delta(delta):
                    yield event
        yield ResponseEvent(type=f"response.{self._status}", response=self.body())

    def body(self) -> ResponseBody:
        """The answer as far as it is."""
        request = self._request
        is_ended = self._status != "in_progress"
        is_cut = self._status == "incomplete"
        return ResponseBody(
            id=f"resp_{self._generation.request_id}",
            created_at=self._created_s,
            status=self._status,
            model=self._generation.model,
            output=list(self._items),
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            text=request.text or TextOptions(format=TextFormat()),
            tools=request.tools or [],
            tool_choice=request.tool_choice or "auto",
            parallel_tool_calls=request.parallel_tool_calls is not False,
            metadata=request.metadata or {},
            usage=to_response_usage(self._usage.usage) if is_ended else None,
            incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
        )

    def _on_delta(self, delta: Delta) -> Iterator[Event]:
        check_not_aborted(delta)
        self._usage.add(delta)
        for piece in self._read(delta):
            yield from self._on_piece(piece)
        if delta.finish_reason is not None:
            self._status = "incomplete" if delta.finish_reason == "length" else "completed"
            if not self._items and self._open is None:
                yield from self._begin(self._new_message())
            yield from self._end(self._status)

    def _read(self, delta: Delta) -> list[Piece]:
        if self._parser is None:
            return [TextPiece(delta.text)] if delta.text else []
        return read_pieces(self._parser, delta)

    def _on_piece(self, piece: Piece) -> Iterator[Event]:
        if isinstance(piece, TextPiece):
            if not isinstance(self._open, MessageItem):
                yield from self._end("completed")
                yield from self._begin(self._new_message())
            yield from self._add(piece.text)
            return
        if piece.name is not None:
            yield from self._end("completed")
            yield from self._begin(self._new_call(piece))
        yield from self._add(piece.arguments)

    def _begin(self, item: Item) -> Iterator[Event]:
        self._open, self._pieces = item, []
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=item)
        if isinstance(item, MessageItem):
            yield self._part_event("response.content_part.added", OutputPart(""))

    def _add(self, text: str) -> Iterator[Event]:
        assert self._open is not None
        self._pieces.append(text)
        if not text:
            return
        kind = TextDelta if isinstance(self._open, MessageItem) else ArgumentsDelta
        yield kind(output_index=self._index, item_id=self._open.id, delta=text)

    def _end(self, status: Status) -> Iterator[Event]:
        """Close the item that is open, if one is."""
        item, text = self._open, "".join(self._pieces)
        if item is None:
            return
        if isinstance(item, MessageItem):
            part = OutputPart(text)
            yield TextDone(output_index=self._index, item_id=item.id, text=text)
            yield self._part_event("response.content_part.done", part)
            item = msgspec.structs.replace(item, status=status, content=(part,))
        else:
            yield ArgumentsDone(
                output_index=self._index, item_id=item.id, name=item.name, arguments=text
            )
            item = msgspec.structs.replace(item, status=status, arguments=text)
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=item)
        self._items.append(item)
        self._open = None

    @property
    def _index(self) -> int:
        return len(self._items)

    def _part_event(self, kind: str, part: OutputPart) -> PartEvent:
        assert self._open is not None
        return PartEvent(type=kind, output_index=self._index, item_id=self._open.id, part=part)

    def _new_message(self) -> MessageItem:
        return MessageItem(id=self._new_id("msg"), status="in_progress", content=())

    def _new_call(self, piece: CallPiece) -> CallItem:
        return CallItem(
            id=self._new_id("fc"),
            status="in_progress",
            call_id=new_call_id(),
            name=piece.name or "",
            arguments="",
        )

    def _new_id(self, kind: str) -> str:
        return f"{kind}_{self._generation.request_id}_{self._index}"


async def _stream(exchange: Exchange, events: AsyncGenerator[Event, None]) -> None:
    number = 0
    async for event in events:
        await exchange.write_event(_to_bytes(event, number))
        number += 1
    await exchange.end_events()


def _to_bytes(event: Event, number: int) -> bytes:
    """The event as it is sent; what all events have stands at its end."""
    data = _encode(event)
    kind = event.type.encode()
    return b'event: %b\ndata: %b,"sequence_number":%d}\n\n' % (kind, data[:-1], number)
