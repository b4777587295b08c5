"""What travels on a link comes out as it went in, and an embedding costs others nothing."""

import msgspec
import pytest

from deployments.types import Call, Delta, Embedding, Pooling, Sampling
from deployments.wire import (
    Entry,
    Failure,
    Submit,
    decode_downlink,
    decode_uplink,
    delta_of,
    encode,
    entry_of,
)
from router.types import KvRoom, Load, LoadReport

REPORT = LoadReport(
    total=Load(9, 3, 40), own=Load(2, 1, 30), kv=KvRoom(5, 8), adapters=("x",), num_running=2
)
DELTA = Delta(1, "a", [5], "stop", num_cached_tokens=3)
EMBEDDING = Embedding(
    index=2,
    text="",
    token_ids=[],
    finish_reason="stop",
    num_cached_tokens=7,
    vector=bytes(range(8)),
)


def entries_of(data: bytes) -> list[Entry]:
    found = decode_downlink(data)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("delta", [DELTA, EMBEDDING])
def test_a_delta_of_either_kind_arrives_as_it_was_sent(delta: Delta) -> None:
    (entry,) = entries_of(encode([entry_of(9, delta, True)]))
    assert (entry.seq, entry.is_last, entry.failure) == (9, True, None)
    found = delta_of(entry)
    assert (found, type(found)) == (delta, type(delta))


def test_both_kinds_and_failures_share_a_frame() -> None:
    failure = Entry(3, None, True, Failure("engine_failed", "gone"))
    frame = [entry_of(1, DELTA, False), entry_of(2, EMBEDDING, True), failure]
    found = entries_of(encode(frame))
    assert [delta_of(entry) for entry in found[:2]] == [DELTA, EMBEDDING]
    assert found[2] == failure


def test_messages_without_embeddings_are_as_small_as_their_own_fields() -> None:
    delta = [1, "a", [5], "stop", None, None, 3]
    assert encode([entry_of(9, DELTA, True)]) == msgspec.msgpack.encode(
        [[9, delta, True, None]]
    )
    call = Call("r", [1], Sampling(max_tokens=2))
    sent = msgspec.msgpack.decode(encode(Submit(4, call, 1)))
    assert sent == [
        1,
        4,
        {"request_id": "r", "token_ids": [1], "sampling": {"max_tokens": 2}},
        1,
    ]


def test_a_call_for_an_embedding_keeps_its_dimensions() -> None:
    for pooling in (Pooling(), Pooling(dimensions=64)):
        call = Call("r", [1], Sampling(), pooling=pooling)
        assert decode_uplink(encode(Submit(1, call, 1))) == Submit(1, call, 1)


def test_bytes_that_are_no_embedding_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        delta_of(Entry(1, msgspec.msgpack.encode([1, "a"]), True))


def test_a_vector_is_read_as_numbers() -> None:
    changed = msgspec.structs.replace(EMBEDDING, vector=b"\x00\x00\x80?\x00\x00\x00\xc0")
    assert changed.values() == [1.0, -2.0]


@pytest.mark.parametrize("report", [REPORT, LoadReport(), LoadReport(is_draining=True)])
def test_a_report_arrives_as_it_was_sent_and_is_no_frame(report: LoadReport) -> None:
    assert decode_downlink(encode(report)) == report


def test_a_map_that_is_no_report_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_downlink(msgspec.msgpack.encode({"total": 3}))
