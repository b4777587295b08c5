"""Requests whose connection was lost go on where they were, if their answer is the same."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from coterie import AsyncClient, Chunk, Client, errors
from coterie.repetition import Repetition, is_repeatable
from coterie.v1 import inference_pb2 as pb
from tests.builders.fake_inference import REPLY, FakeInference, serving
from tests.builders.relay import Relay

GREEDY = pb.GenerateRequest(sampling=pb.SamplingParameters(temperature=0))
LOST = errors.UnavailableError("the connection ended")
STOP = pb.FINISH_REASON_STOP


def piece(text: str, *token_ids: int, index: int = 0, **fields: Any) -> pb.OutputChunk:
    return pb.OutputChunk(index=index, text=text, token_ids=token_ids, **fields)


def given_by(*tries: list[pb.OutputChunk]) -> list[pb.OutputChunk]:
    """What a client gets of these tries, each but the last of which was lost."""
    request = pb.GenerateRequest()
    request.CopyFrom(GREEDY)
    repetition, found = Repetition(request), []
    for number, messages in enumerate(tries):
        if number:
            repetition.begin_again(LOST)
        for message in messages:
            if (rest := repetition.rest_of(message)) is not None:
                found.append(rest)
    return found


def test_pieces_that_were_given_are_left_out_wherever_others_begin_and_end() -> None:
    found = given_by(
        [piece("ab", 1, 2), piece("c", 3)],
        [piece("a", 1), piece("bcd", 2, 3, 4), piece("e", 5, finish_reason=STOP)],
    )
    assert found == [
        piece("ab", 1, 2),
        piece("c", 3),
        piece("d", 4),
        piece("e", 5, finish_reason=STOP),
    ]


def test_text_may_come_later_or_sooner_than_it_came_with_the_tokens_before() -> None:
    found = given_by(
        [piece("", 1), piece("ab", 2)], [piece("a", 1), piece("", 2), piece("bc", 3)]
    )
    assert found[2:] == [piece("c", 3)]
    assert "".join(each.text for each in found) == "abc"


def test_a_third_try_leaves_out_what_both_before_it_gave() -> None:
    pieces = [piece(letter, number) for number, letter in enumerate("abcd")]
    assert given_by(pieces[:2], pieces[:1], pieces[:3], pieces) == pieces


def test_outputs_of_one_request_are_told_apart() -> None:
    found = given_by(
        [piece("a", 1), piece("x", 9, index=1, finish_reason=STOP)],
        [
            piece("x", 9, index=1, finish_reason=STOP),
            piece("ab", 1, 2, finish_reason=STOP),
            piece("", usage=pb.Usage(num_output_tokens=3)),
        ],
    )
    assert found[2:] == [
        piece("b", 2, finish_reason=STOP),
        piece("", usage=pb.Usage(num_output_tokens=3)),
    ]


def test_logprobs_stay_with_their_tokens() -> None:
    logprobs = [pb.TokenLogprobs(), pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=2))]
    _, rest = given_by([piece("a", 1)], [piece("ab", 1, 2, logprobs=logprobs)])
    assert list(rest.logprobs) == logprobs[1:]


@pytest.mark.parametrize("other", [piece("ax", 1, 2), piece("ab", 1, 3)])
def test_an_answer_that_is_another_one_is_an_error(other: pb.OutputChunk) -> None:
    with pytest.raises(errors.UnavailableError, match=r"ended; asked anew, .* another one"):
        given_by([piece("abc", 1, 2)], [other])


def test_the_request_keeps_the_id_that_its_first_answer_had() -> None:
    request = pb.GenerateRequest()
    request.CopyFrom(GREEDY)
    Repetition(request).rest_of(piece("a", 1, request_id="made-up"))
    assert request.request_id == "made-up"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (GREEDY, True),
        (pb.ChatRequest(sampling=pb.SamplingParameters(temperature=0)), True),
        (pb.ChatRequest(sampling=pb.SamplingParameters(temperature=1, seed=7)), True),
        (pb.GenerateRequest(), False),
        (pb.GenerateRequest(sampling=pb.SamplingParameters(temperature=0.5)), False),
        (pb.EmbedRequest(), True),
        (pb.ListModelsRequest(), True),
    ],
)
def test_what_is_repeatable(request_: Any, expected: bool) -> None:
    assert is_repeatable(request_) is expected


class Holding(FakeInference):
    """Says a part, and no more until the connection is cut; then all of it."""

    def __init__(self, reply_after: str = REPLY) -> None:
        super().__init__()
        self.reply_after = reply_after
        self.hold_after = 5

    def go_on(self) -> None:
        self.hold_after, self.reply = None, self.reply_after


def once_heard(
    strike: Callable[[Callable[[], object]], None], fake: Holding, heard: list[Chunk]
) -> threading.Thread:
    """Cut or stop a relay once a client has heard what there is to hear."""

    def has_heard() -> bool:
        if len(heard) < 5:
            return False
        fake.go_on()
        return True

    thread = threading.Thread(target=strike, args=(has_heard,))
    thread.start()
    return thread


def test_a_stream_goes_on_where_its_connection_was_lost() -> None:
    fake, heard = Holding(), list[Chunk]()
    with serving(fake) as address, Relay(address) as relay, Client(relay.address) as client:
        cut = once_heard(relay.cut_when, fake, heard)
        for chunk in client.generate("abc", temperature=0):
            heard.append(chunk)
        cut.join()
    assert "".join(chunk.text for chunk in heard) == REPLY
    assert bytes(i for chunk in heard for i in chunk.token_ids).decode() == REPLY
    assert len({chunk.request_id for chunk in heard}) == 1
    assert len(fake.requests) == 2


async def test_a_stream_of_the_asyncio_client_does_the_same() -> None:
    fake, heard = Holding(), list[Chunk]()
    with serving(fake) as address, Relay(address) as relay:
        async with AsyncClient(relay.address) as client:
            cut = once_heard(relay.cut_when, fake, heard)
            async for chunk in client.chat("abc", seed=7):
                heard.append(chunk)
        cut.join()
    assert "".join(chunk.text for chunk in heard) == REPLY
    assert len(fake.requests) == 2


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_stream_goes_on_where_its_connection_says_nothing_any_more() -> None:
    """It is noticed within half a minute."""
    fake, heard = Holding(), list[Chunk]()
    with serving(fake) as address, Relay(address) as relay, Client(relay.address) as client:
        hang = once_heard(relay.hang_when, fake, heard)
        for chunk in client.generate("abc", temperature=0, timeout_s=100):
            heard.append(chunk)
        hang.join()
    assert "".join(chunk.text for chunk in heard) == REPLY
    assert len(fake.requests) == 2


async def test_a_stream_that_would_go_on_otherwise_ends_with_an_error() -> None:
    fake, heard = Holding(reply_after="something else altogether"), list[Chunk]()
    with serving(fake) as address, Relay(address) as relay:
        async with AsyncClient(relay.address) as client:
            cut = once_heard(relay.cut_when, fake, heard)
            with pytest.raises(errors.UnavailableError, match="another one"):
                async for chunk in client.generate("abc", temperature=0):
                    heard.append(chunk)
        cut.join()
        assert fake.ended_early.wait(5)
    assert "".join(chunk.text for chunk in heard) == REPLY[:5]


def test_no_more_often_than_a_request_may_be_sent_again() -> None:
    fake, heard = Holding(), list[Chunk]()
    with (
        serving(fake) as address,
        Relay(address) as relay,
        Client(relay.address, max_retries=0) as client,
    ):
        cut = once_heard(relay.cut_when, fake, heard)
        with pytest.raises(errors.UnavailableError, match="ended before the answer"):
            for chunk in client.generate("abc", temperature=0):
                heard.append(chunk)
        cut.join()
    assert len(fake.requests) == 1
