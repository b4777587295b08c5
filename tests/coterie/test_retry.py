"""Which requests are sent again, and when."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from coterie import AsyncClient, Client, errors
from coterie.cli.console import hint_of
from coterie.repetition import Repetition
from coterie.retry import AWAY_DELAY_S, FIRST_DELAY_S, JITTER, MAX_DELAY_S, Attempts
from coterie.status_details import StatusDetails, read_details
from coterie.v1 import inference_pb2 as pb
from tests.builders.fake_inference import REPLY, FakeInference, serving
from tests.builders.relay import Relay

FULL = errors.CapacityError("full", retry_after_s=0.05)
AWAY = errors.NoReplicaError("away", retry_after_s=0.05)
LONGER_THAN_RETRIES_S = 2.0


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def chosen_anew() -> Repetition:
    """Of a request whose answer is another each time."""
    return Repetition(pb.GenerateRequest())


def attempts(
    max_retries: int = 2,
    timeout_s: float | None = None,
    chance: float = 0,
    clock: Clock | None = None,
) -> Attempts:
    return Attempts(max_retries, timeout_s, now=clock or Clock(), chance=lambda: chance)


def unreached(*, may_return: bool = False) -> errors.UnavailableError:
    found = errors.UnavailableError("away", retry_after_s=0.0)
    found.may_return = may_return
    return found


def test_the_cluster_decides_how_long_to_wait_and_chance_adds_to_it() -> None:
    error = errors.CapacityError("full", retry_after_s=3)
    assert attempts().next_delay_s(error, chosen_anew()) == 3
    assert attempts(chance=1).next_delay_s(error, chosen_anew()) == 3 * (1 + JITTER)


def test_without_a_hint_the_delay_doubles_until_the_retries_are_used_up() -> None:
    tries = attempts(max_retries=3)
    found = [tries.next_delay_s(unreached(), chosen_anew()) for _ in range(4)]
    assert found == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S, None]


def test_where_nobody_says_anything_tries_are_not_counted_but_the_time_is() -> None:
    clock = Clock()
    tries = attempts(max_retries=1, clock=clock)
    for _ in range(10):
        delay_s = tries.next_delay_s(unreached(may_return=True), chosen_anew())
        assert delay_s == AWAY_DELAY_S
        clock.now_s += delay_s
    assert tries.next_delay_s(unreached(), chosen_anew()) == FIRST_DELAY_S
    assert tries.next_delay_s(unreached(may_return=True), chosen_anew()) == AWAY_DELAY_S
    clock.now_s += MAX_DELAY_S
    assert tries.next_delay_s(unreached(may_return=True), chosen_anew()) is None
    assert tries.next_delay_s(unreached(), chosen_anew()) is None


def test_each_answer_begins_the_time_anew() -> None:
    clock = Clock()
    tries = attempts(max_retries=1, clock=clock)
    for _ in range(3):
        assert tries.next_delay_s(unreached(may_return=True), chosen_anew()) == AWAY_DELAY_S
        clock.now_s += MAX_DELAY_S
        tries.note_answer()


def test_where_the_connection_falls_silent_what_can_be_repeated_is() -> None:
    error = errors.UnavailableError("silent")
    error.was_connected = error.may_return = True
    tries = attempts(max_retries=1)
    greedy = pb.GenerateRequest()
    greedy.sampling.temperature = 0
    found = [tries.next_delay_s(error, Repetition(greedy)) for _ in range(5)]
    assert found == [AWAY_DELAY_S] * 5
    assert tries.next_delay_s(error, chosen_anew()) is None


def test_who_wants_no_tries_gets_none() -> None:
    error = unreached(may_return=True)
    assert attempts(max_retries=0).next_delay_s(error, chosen_anew()) is None


@pytest.mark.parametrize(
    "error",
    [
        errors.EngineError("it was at work"),
        errors.InvalidArgumentError("bad"),
        errors.DeadlineError("late"),
        errors.RequestTooLargeError("large"),
        errors.UnavailableError("this is another kind of server"),
        errors.CapacityError("told to wait long", retry_after_s=MAX_DELAY_S + 1),
        errors.CoterieError("ours", retry_after_s=1),
    ],
    ids=str,
)
def test_what_has_begun_or_would_fail_again_is_not_sent_again(error: Exception) -> None:
    assert isinstance(error, errors.CoterieError)
    assert attempts().next_delay_s(error, chosen_anew()) is None


def test_a_full_cluster_that_gives_no_hint_is_left_alone() -> None:
    error: errors.CoterieError = errors.CapacityError("full")
    error.retry_after_s = None
    assert attempts().next_delay_s(error, chosen_anew()) is None


def test_no_wait_reaches_beyond_the_deadline() -> None:
    assert attempts(timeout_s=0.2).next_delay_s(unreached(), chosen_anew()) is None
    tries = attempts(timeout_s=0.6)
    assert tries.next_delay_s(unreached(), chosen_anew()) == FIRST_DELAY_S
    assert tries.left_s == pytest.approx(0.6)


def test_a_gateway_that_takes_connections_and_says_nothing_is_left_for_another() -> None:
    fake = FakeInference()
    with (
        serving(fake) as address,
        Relay(address, num_silent=1) as way,
        Client(way.address, max_retries=1) as client,
    ):
        assert "".join(chunk.text for chunk in client.generate("abc")) == REPLY


class Failing(FakeInference):
    """Fails the first requests, each with the next of these errors."""

    def __init__(self, *failures: errors.CoterieError) -> None:
        super().__init__()
        self.failures = list(failures)

    def _enter(self, request: Any, context: grpc.ServicerContext) -> None:
        self.failure = self.failures.pop(0) if self.failures else None
        super()._enter(request, context)


def streamed(client: Client) -> str:
    return "".join(chunk.text for chunk in client.generate("abc"))


def whole(client: Client) -> str:
    return client.chat_unary("abc").text


async def streamed_async(client: AsyncClient) -> str:
    return "".join([chunk.text async for chunk in client.generate("abc")])


async def whole_async(client: AsyncClient) -> str:
    return (await client.chat_unary("abc")).text


@pytest.mark.parametrize("ask", [streamed, whole])
def test_a_request_that_was_turned_away_is_sent_again(ask: Callable[[Client], str]) -> None:
    fake = Failing(FULL, AWAY)
    with serving(fake) as address, Client(address) as client:
        assert ask(client) == REPLY
    assert len(fake.requests) == 3


@pytest.mark.parametrize("ask", [streamed_async, whole_async])
async def test_the_asyncio_client_does_the_same(ask: Callable[[AsyncClient], Any]) -> None:
    fake = Failing(FULL, AWAY)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            assert await ask(client) == REPLY
    assert len(fake.requests) == 3


def test_the_last_refusal_is_raised_with_what_the_cluster_said() -> None:
    fake = Failing(FULL, FULL, FULL)
    with (
        serving(fake) as address,
        Client(address, max_retries=1) as client,
        pytest.raises(errors.CapacityError, match="full") as failed,
    ):
        whole(client)
    assert failed.value.retry_after_s == 0.05
    assert len(fake.requests) == 2


def test_the_field_at_fault_is_named() -> None:
    fake = Failing(errors.InvalidArgumentError("bad", param="top_p"))
    with (
        serving(fake) as address,
        Client(address) as client,
        pytest.raises(errors.InvalidArgumentError) as failed,
    ):
        whole(client)
    assert (failed.value.param, failed.value.retry_after_s) == ("top_p", None)
    assert len(fake.requests) == 1


def test_nothing_is_sent_again_once_a_chunk_has_come() -> None:
    fake = FakeInference()
    fake.failure, fake.fail_after = FULL, 2
    with (
        serving(fake) as address,
        Client(address) as client,
        pytest.raises(errors.CapacityError),
    ):
        streamed(client)
    assert len(fake.requests) == 1


async def test_nothing_is_sent_again_once_a_chunk_has_come_to_the_asyncio_client() -> None:
    fake = FakeInference()
    fake.failure, fake.fail_after = FULL, 2
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.CapacityError):
                await streamed_async(client)
    assert len(fake.requests) == 1


def test_a_retry_has_the_time_that_is_left() -> None:
    fake = Failing(FULL)
    fake.hold_after = 0
    with serving(fake) as address, Client(address) as client:
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineError, match=r"timeout_s=0\.5"):
            list(client.generate("abc", timeout_s=0.5))
        assert time.monotonic() - begun < 0.75
    assert len(fake.requests) == 2


def test_a_gateway_that_comes_back_is_found_again(unused_tcp_port: int) -> None:
    fake = FakeInference()
    with serving(fake, unused_tcp_port) as address:
        client = Client(address, max_retries=5)
        assert whole(client) == REPLY
    with serving(fake, unused_tcp_port), client:
        assert whole(client) == REPLY


@contextmanager
def back_after(delay_s: float, fake: FakeInference, port: int) -> Iterator[None]:
    """A server at the port, that long after the beginning and until the end."""
    stack = ExitStack()
    timer = threading.Timer(delay_s, lambda: stack.enter_context(serving(fake, port)))
    timer.start()
    with stack:
        yield
        timer.join()


@pytest.mark.parametrize("ask", [streamed, whole])
def test_a_gateway_that_was_there_is_waited_for(
    ask: Callable[[Client], str], unused_tcp_port: int
) -> None:
    fake = FakeInference()
    with serving(fake, unused_tcp_port) as address:
        client = Client(address)
        assert ask(client) == REPLY
    with client, back_after(LONGER_THAN_RETRIES_S, fake, unused_tcp_port):
        assert ask(client) == REPLY


@pytest.mark.parametrize("ask", [streamed_async, whole_async])
async def test_the_asyncio_client_waits_for_it_too(
    ask: Callable[[AsyncClient], Any], unused_tcp_port: int
) -> None:
    fake = FakeInference()
    with serving(fake, unused_tcp_port) as address:
        client = AsyncClient(address)
        assert await ask(client) == REPLY
    with back_after(LONGER_THAN_RETRIES_S, fake, unused_tcp_port):
        assert await ask(client) == REPLY
    await client.close()


def test_who_has_never_been_answered_is_told_at_once(unused_tcp_port: int) -> None:
    with (
        Client(f"127.0.0.1:{unused_tcp_port}") as client,
        back_after(LONGER_THAN_RETRIES_S, FakeInference(), unused_tcp_port),
        pytest.raises(errors.UnavailableError, match="; start one with `coterie up`"),
    ):
        whole(client)


def test_a_gateway_that_is_gone_is_told_from_one_that_never_was(unused_tcp_port: int) -> None:
    with serving(FakeInference(), unused_tcp_port) as address:
        client = Client(address, max_retries=0)
        assert whole(client) == REPLY
    with client, pytest.raises(errors.UnavailableError, match=f"{address} any more") as raised:
        whole(client)
    assert raised.value.may_return


@pytest.mark.parametrize("ask", [streamed, whole])
def test_a_request_whose_connection_is_lost_while_it_is_at_work_is_sent_once(
    ask: Callable[[Client], str],
) -> None:
    fake = FakeInference()
    fake.hold_after = 0
    with serving(fake) as address, Relay(address) as relay, Client(relay.address) as client:
        cut = threading.Thread(target=relay.cut_when, args=(lambda: fake.requests,))
        cut.start()
        with pytest.raises(errors.UnavailableError, match="ended before the answer"):
            ask(client)
        cut.join()
        time.sleep(2 * FIRST_DELAY_S * (1 + JITTER))
    assert len(fake.requests) == 1


def test_cancelling_ends_the_wait_for_another_try() -> None:
    fake = Failing(errors.CapacityError("full", retry_after_s=30))
    with serving(fake) as address, Client(address) as client:
        stream = client.generate("abc")
        stream.cancel()
        assert list(stream) == []


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="max_retries is -1"):
        Client(max_retries=-1)


@pytest.mark.parametrize("garbled", [b"\xff\xff", b""])
def test_garbled_details_tell_nothing(garbled: bytes) -> None:
    assert read_details([("grpc-status-details-bin", garbled)]) == StatusDetails()
    assert read_details(None) == StatusDetails()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (errors.CapacityError("full", retry_after_s=2.2), "try again in 3 s; "),
        (errors.NoReplicaError("away"), "try again in 1 s; "),
        (errors.EngineError("dead"), "`coterie status` tells how the engines are"),
    ],
)
def test_the_command_line_says_when_to_come_back(error: errors.CoterieError, hint: str) -> None:
    assert (hint_of(error) or "").startswith(hint)
