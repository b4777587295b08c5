"""Bytes that processes of a cluster send each other, and who reads them.

A reader takes what makes sense and refuses the rest by the errors that it is documented to
raise; anything else that it raises would end a link, or a process, of which it is not asked.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from deployments import wire
from deployments.drafts import messages as draft_messages
from deployments.drafts.messages import Answer, AnswerRow, Tell, TellRow
from deployments.engine.kv_events.messages import decode_batch
from deployments.engine.kv_events.translator import Translator
from deployments.engine.kv_events.types import EventCounters
from deployments.types import Call, Delta, Sampling
from experts.host_report import HostReport
from experts.tier_view import SlotTable
from experts.transport import control, hello
from experts.transport import messages as expert_messages
from experts.transport.errors import BadFrameError, RefusedError
from experts.transport.messages import AnswerHeader, RequestHeader, RowType, Status
from experts.types import HostId
from router.types import KvRoom, Load, LoadReport
from tests.builders.kv_events import CLEARED, MODEL, ONE_GROUP, batch, removed, stored
from tests.fuzz.mutations import Mutations

_MAX_BATCHES = 1000
"""Of one translator, which keeps all blocks that it is told of."""

Refusals = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Reader:
    """Somebody who reads what comes over one kind of connection."""

    name: str
    samples: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: Refusals


@dataclass
class Findings:
    """What became of so many inputs."""

    name: str
    num_inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Inputs that ended otherwise than they may: what happened, and the bytes."""
    seconds: float = 0.0
    slowest_s: float = 0.0

    def note_failure(self, what: str, data: bytes) -> None:
        """Keep the first of them."""
        self.outcomes["failure"] += 1
        if len(self.failures) < 10:
            self.failures.append(f"{what}: {data[:300].hex()}")


def run(reader: Reader, num_inputs: int, dice: random.Random) -> Findings:
    """Let it read so many."""
    found = Findings(reader.name)
    mutations = Mutations(reader.samples, dice)
    began_s = time.perf_counter()
    for _ in range(num_inputs):
        data = mutations.next()
        started_s = time.perf_counter()
        try:
            reader.read(data)
        except reader.refusals:
            found.outcomes["refused"] += 1
        except Exception as error:  # that it may not raise: a finding
            found.note_failure(repr(error), data)
        else:
            found.outcomes["read"] += 1
        found.slowest_s = max(found.slowest_s, time.perf_counter() - started_s)
        found.num_inputs += 1
    found.seconds = time.perf_counter() - began_s
    return found


def readers() -> list[Reader]:
    """All of them."""
    frame, garbled = (BadFrameError,), (msgspec.DecodeError, UnicodeDecodeError)
    return [
        Reader("kv events", _kv_batches(), _KvReader(), ()),
        Reader("links, to engines", _uplinks(), wire.decode_uplink, garbled),
        Reader("links, to gateways", _downlinks(), _read_downlink, garbled),
        Reader(
            "experts, requests", _expert_requests(), _on(expert_messages.read_request), frame
        ),
        Reader("experts, answers", _expert_answers(), _on(expert_messages.read_answer), frame),
        Reader("experts, tables", _tables(), _on(control.read_table), frame),
        Reader("experts, reports", _reports(), _on(control.read_report), frame),
        Reader("experts, orders", _orders(), _on(control.read_order), frame),
        Reader("experts, outcomes", _orders(), _on(control.read_ordered), frame),
        Reader("links' first words", _hellos(), hello.read_hello, (RefusedError,)),
        Reader("links' first answers", _welcomes(), hello.read_answer, (RefusedError,)),
        Reader("drafts, tells", _tells(), _on(draft_messages.read_tell), frame),
        Reader("drafts, answers", _answers(), _on(draft_messages.read_answer), frame),
    ]


def _on(read: Callable[[memoryview], object]) -> Callable[[bytes], object]:
    """Frames come in memory that the other end wrote."""
    return lambda data: read(memoryview(bytearray(data)))


class _KvReader:
    """Decodes and translates, as the feed of the index does; nothing stops it."""

    def __init__(self) -> None:
        self._num_read = 0
        self._translator = self._fresh()

    def __call__(self, data: bytes) -> object:
        self._num_read += 1
        if self._num_read % _MAX_BATCHES == 0:
            self._translator.check_invariants()
            self._translator = self._fresh()
        events, complaints = decode_batch(data)
        self._translator.apply(events)
        return complaints

    def _fresh(self) -> Translator:
        return Translator(MODEL, ONE_GROUP, EventCounters())


def _read_downlink(data: bytes) -> object:
    message = wire.decode_downlink(data)
    if isinstance(message, LoadReport):
        return message
    return [wire.delta_of(entry) for entry in message if entry.delta is not None]


def _kv_batches() -> list[bytes]:
    events = [stored([1, 2, 3, 4]), stored([1, 2, 3, 4, 5, 6], begin=2), removed([1, 2])]
    return [batch(events), batch(events[:1]), batch([CLEARED])]


def _uplinks() -> list[bytes]:
    call = Call(
        "r", [1, 2, 300], Sampling(max_tokens=3, stop=("a",)), trace={"traceparent": "x"}
    )
    return [wire.encode(m) for m in (wire.Submit(7, call, 3), wire.Abort(7), wire.Held(2))]


def _downlinks() -> list[bytes]:
    report = LoadReport(Load(9, 3, 40), Load(2, 1, 30), kv=KvRoom(5, 8), adapters=("x",))
    delta = Delta(1, "aé", [5], "stop", num_cached_tokens=3)
    failure = wire.Entry(2, None, True, wire.Failure("engine", "it died", None, 1.0))
    return [wire.encode(report), wire.encode([wire.entry_of(1, delta, False), failure])]


def _expert_requests() -> list[bytes]:
    found = []
    for row_type in (RowType.FLOAT32, RowType.BFLOAT16):
        header = RequestHeader(1, 2, 3, 2, 3, 8, row_type, False, True)
        frame = memoryview(bytearray(header.num_bytes))
        views = expert_messages.write_request(frame, header)
        views.pair_rows[:] = [0, 1, 1]
        expert_messages.seal(frame)
        found.append(bytes(frame))
    return found


def _expert_answers() -> list[bytes]:
    found = []
    for status, num_pairs in ((Status.OK, 3), (Status.FAILED, 0)):
        header = AnswerHeader(1, status, num_pairs, 8, RowType.FLOAT32, 0.1, 0.2, True)
        frame = memoryview(bytearray(header.num_bytes))
        expert_messages.write_answer(frame, header)
        expert_messages.seal(frame)
        found.append(bytes(frame))
    return found


def _tables() -> list[bytes]:
    table = SlotTable(3, np.array([[0, 1, -1], [2, 0, 1]], np.int16))
    return [control.table_frame(table), control.ask_frame(), control.follow_frame()]


def _reports() -> list[bytes]:
    table = SlotTable(3, np.array([[0, 1, -1], [2, 0, 1]], np.int16))
    counts = np.arange(6, dtype=np.int64).reshape(2, 3)
    times = (2e-5, 1e-7, 0.001, 0.25)
    report = HostReport(HostId("h"), table, counts, counts, *times, 2, 9, is_leaving=False)
    return [control.report_frame(report)]


def _orders() -> list[bytes]:
    order = control.Order(4, np.array([[0, 1, 2], [1, 0, -1]], np.int32))
    ordered = control.Ordered(4, (control.Outcome(0), control.Outcome(1)))
    return [control.order_frame(order), control.ordered_frame(ordered), control.done_frame(2)]


def _hellos() -> list[bytes]:
    said = hello.Hello(1, 1, "engine", "model", 4096)
    refusal = hello.Refusal("it serves another model")
    return [hello.encode(said), hello.encode(refusal)]


def _welcomes() -> list[bytes]:
    return [hello.encode(hello.Welcome("host")), *_hellos()]


def _tells() -> list[bytes]:
    rows = [TellRow(n, 4, n == 0, 3, np.arange(n + 1, dtype=np.int32)) for n in range(3)]
    return [draft_messages.tell_bytes(Tell(5, np.full(4, 0.5, np.float32), 0.1, rows, 0.02))]


def _answers() -> list[bytes]:
    rows = [AnswerRow(True, [5, 6], [0, 1]), AnswerRow(False, [], [])]
    return [draft_messages.answer_bytes(Answer(5, 0.01, rows))]


def summary(found: Findings) -> dict[str, Any]:
    """For people and for JSON."""
    return {
        "name": found.name,
        "inputs": found.num_inputs,
        **dict(found.outcomes),
        "inputs_per_s": round(found.num_inputs / max(found.seconds, 1e-9)),
        "slowest_ms": round(1000 * found.slowest_s, 1),
        "failures": found.failures,
    }
