"""KV events over the wire, also those that no version of vLLM sends yet."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.kv_events.messages import (
    ClearedEvent,
    RemovedEvent,
    StoredEvent,
    decode_batch,
)
from tests.builders.kv_events import CLEARED, batch, removed, stored


def test_a_batch_is_its_events_in_order() -> None:
    events, complaints = decode_batch(batch([stored([1, 2]), removed([1, 2]), CLEARED]))
    assert [type(event) for event in events] == [StoredEvent, RemovedEvent, ClearedEvent]
    assert complaints == []


def test_fields_may_come_and_go() -> None:
    more = stored([1, 2]) | {"colour": "red"}
    less = {"type": "BlockRemoved", "block_hashes": [1]}
    (event, gone), complaints = decode_batch(batch([more, less]))
    assert isinstance(event, StoredEvent) and event.token_ids == [1, 2]
    assert (gone, complaints) == (RemovedEvent([1]), [])


def test_what_is_unknown_or_wrong_leaves_the_rest_as_it_is() -> None:
    wrong = stored([1, 2]) | {"token_ids": "12"}
    nothing = {"type": "BlockStored"}
    events, complaints = decode_batch(
        batch([{"type": "BlockPainted"}, removed([1]), wrong, nothing])
    )
    assert events == [RemovedEvent([repr(((1,), None, None)).encode()], "GPU", 0)]
    assert len(complaints) == 3
    assert "BlockPainted" in complaints[0]


def test_a_newer_batch_may_have_more_in_it() -> None:
    payload = msgspec.msgpack.encode([0.5, [CLEARED], 0, "more"])
    assert decode_batch(payload) == ([ClearedEvent()], [])


WORDS = st.sampled_from(["BlockStored", "GPU", "type", "token_ids", b"x"])
JUNK = st.recursive(
    st.none() | st.integers(-5, 2**64 - 1) | st.binary(max_size=4) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(payload=st.binary(max_size=80) | JUNK.map(msgspec.msgpack.encode))
def test_no_payload_can_make_it_fail(payload: bytes) -> None:
    events, complaints = decode_batch(payload)
    if not events and not complaints:
        assert msgspec.msgpack.decode(payload)[1] == []


@given(junk=JUNK, place=st.integers(0, 2))
def test_junk_among_events_costs_nothing_but_itself(junk: object, place: int) -> None:
    good = [removed([1]), CLEARED]
    events, complaints = decode_batch(
        msgspec.msgpack.encode([0.5, [*good[:place], junk, *good[place:]], 0])
    )
    assert (len(events), len(complaints)) == (2, 1)


def test_text_that_is_none_makes_no_sense_and_stops_nobody() -> None:
    good = batch([stored([1, 2]), CLEARED])
    garbled = good.replace(b"AllBlocksCleared", b"AllBlocksClear\xa4t")
    events, complaints = decode_batch(garbled)
    assert (len(events), len(complaints)) == (1, 1)
    assert decode_batch(b"\xd9\x02\xa4\xff")[0] == []
