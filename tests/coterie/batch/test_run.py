"""The course of a batch, against senders that answer by script."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from coterie.batch.concurrency import Concurrency
from coterie.batch.retry import Retry
from coterie.batch.run import Means, run_batch
from coterie.batch.types import Answer, BatchRequest, Fault, Outcome, is_final
from coterie.batch.waiting import Waiting
from coterie.errors import CoterieError, DeadlineError, UnauthenticatedError, UnavailableError

OK = Answer(200, "id", {"usage": {"total_tokens": 7}})
FULL = Answer(429, "id", {"error": {"code": "overloaded"}}, retry_after_s=0.001)
POISONED = Answer(503, "id", {"error": {"code": "engine_failed"}}, retry_after_s=0.001)
BAD = Answer(400, "id", {})
GONE = UnavailableError("gone")


class AtOnce(Retry):
    """Does not wait."""

    def delay_s(self, attempt: int, retry_after_s: float | None, chance: float) -> float | None:
        return None if attempt > self.max_retries else 0.0


class ScriptedSender:
    """Gives each request the next step of its script, the last one for ever."""

    def __init__(self, *script: Answer | CoterieError) -> None:
        self.script = script
        self.attempts: Counter[str] = Counter()
        self.num_open = 0
        self.max_open = 0

    async def check(self) -> None:
        assert not self.attempts

    async def send(self, request: BatchRequest) -> Answer:
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            await asyncio.sleep(0.001)
        finally:
            self.num_open -= 1
        script = self.script_of(request)
        step = script[min(self.attempts[request.custom_id], len(script) - 1)]
        self.attempts[request.custom_id] += 1
        if isinstance(step, CoterieError):
            raise step
        return step

    def script_of(self, _: BatchRequest) -> tuple[Answer | CoterieError, ...]:
        return self.script

    async def close(self) -> None:
        assert not self.num_open


def requests(num: int) -> Iterator[BatchRequest]:
    return (BatchRequest(i, f"r{i}", "/v1/embeddings", {}) for i in range(num))


async def outcomes_of(
    sender: ScriptedSender, num: int = 1, max_retries: int = 3, max_limit: int = 50
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    means = Means(sender, Concurrency(max_limit), Retry(max_retries), chance=lambda: 0.99)
    await run_batch(requests(num), means, outcomes.append)
    means.concurrency.check_invariants()
    await sender.close()
    return outcomes


async def test_each_request_has_one_outcome() -> None:
    sender = ScriptedSender(OK)
    outcomes = await outcomes_of(sender, num=200)
    assert sorted(o.custom_id for o in outcomes) == sorted(f"r{i}" for i in range(200))
    assert all(o == Outcome(o.custom_id, OK) for o in outcomes)


async def test_no_more_are_under_way_than_allowed() -> None:
    sender = ScriptedSender(OK)
    await outcomes_of(sender, num=100, max_limit=3)
    assert sender.max_open == 3


async def test_no_more_are_read_than_are_under_way() -> None:
    num_read = num_done = 0

    def counted() -> Iterator[BatchRequest]:
        nonlocal num_read
        for request in requests(100):
            num_read += 1
            yield request

    def on_outcome(_: Outcome) -> None:
        nonlocal num_done
        num_done += 1
        assert num_read - num_done <= 5

    num_done = 0
    await run_batch(counted(), Means(ScriptedSender(OK), Concurrency(4), Retry(0)), on_outcome)
    assert (num_read, num_done) == (100, 100)


async def test_a_server_without_room_is_asked_again() -> None:
    sender = ScriptedSender(FULL, Answer(503, "id", {}), OK)
    outcomes = await outcomes_of(sender, num=5)
    assert [outcome.answer for outcome in outcomes] == [OK] * 5
    assert list(sender.attempts.values()) == [3] * 5


async def test_a_refusal_for_good_is_not_sent_again() -> None:
    sender = ScriptedSender(BAD)
    assert await outcomes_of(sender) == [Outcome("r0", BAD)]
    assert sender.attempts == {"r0": 1}


async def test_the_last_refusal_counts_when_the_retries_are_used_up() -> None:
    sender = ScriptedSender(FULL)
    assert await outcomes_of(sender, max_retries=2) == [Outcome("r0", FULL)]
    assert sender.attempts == {"r0": 3}


async def test_no_answer_is_a_fault_after_all_retries() -> None:
    sender = ScriptedSender(UnavailableError("gone"))
    fault = Fault("unavailable", "gone")
    assert await outcomes_of(sender, max_retries=1) == [Outcome("r0", None, fault)]
    assert sender.attempts == {"r0": 2}


async def test_what_took_too_long_is_not_sent_again() -> None:
    sender = ScriptedSender(DeadlineError("slow"))
    (outcome,) = await outcomes_of(sender)
    assert outcome.fault == Fault("deadline_exceeded", "slow")
    assert sender.attempts == {"r0": 1}


async def test_where_no_one_answers_the_batch_ends_early() -> None:
    sender = ScriptedSender(UnavailableError("gone"))
    with pytest.raises(UnavailableError, match=r"20 attempts in a row got no answer.*gone"):
        await outcomes_of(sender, num=1000, max_retries=0)
    assert len(sender.attempts) < 40


class ServerWithClock(ScriptedSender):
    """Each attempt takes 5 s of its clock."""

    def __init__(self, *script: Answer | CoterieError) -> None:
        super().__init__(*script)
        self.now_s = 0.0

    async def send(self, request: BatchRequest) -> Answer:
        self.now_s += 5
        return await super().send(request)

    async def silence_s(self, max_retries: int = 16) -> float:
        """How long a batch of many bears it; no request has an outcome before."""
        means = Means(self, Concurrency(50), AtOnce(max_retries), clock=lambda: self.now_s)
        with pytest.raises(UnavailableError, match="attempts in a row got no answer"):
            await run_batch(requests(1000), means, lambda _: None)
        return self.now_s


async def test_a_server_that_never_answers_is_borne_for_a_minute() -> None:
    assert 60 <= await ServerWithClock(GONE).silence_s(max_retries=1000) <= 130


async def test_a_server_that_has_answered_is_waited_for_for_ten_minutes() -> None:
    sender = ServerWithClock(FULL, GONE)
    assert 600 <= await sender.silence_s(max_retries=1000) <= 660


async def test_a_silence_is_borne_no_longer_than_the_retries_last() -> None:
    assert await ServerWithClock(FULL, GONE).silence_s(max_retries=5) <= 150


class RestsBeforeTheLast(AtOnce):
    """Waits a moment before the last attempt of a request."""

    def delay_s(self, attempt: int, retry_after_s: float | None, chance: float) -> float | None:
        if attempt == self.max_retries:
            return 0.2
        return super().delay_s(attempt, retry_after_s, chance)


class NoRoomForTheFirst(ScriptedSender):
    """Has no room for r0 until its last attempt, and says nothing to others before that."""

    def script_of(self, request: BatchRequest) -> tuple[Answer | CoterieError, ...]:
        if request.custom_id == "r0":
            return (*[FULL] * 16, GONE)
        return (GONE,) if self.attempts["r0"] < 17 else (OK,)


async def test_a_request_whose_retries_went_for_want_of_room_ends_no_batch() -> None:
    outcomes: list[Outcome] = []
    means = Means(
        NoRoomForTheFirst(), Concurrency(50), RestsBeforeTheLast(16), clock=lambda: 0.0
    )
    await run_batch(requests(300), means, outcomes.append)
    (first,) = (outcome for outcome in outcomes if outcome.custom_id == "r0")
    assert first.fault == Fault("unavailable", "gone")
    assert (len(outcomes), outcomes[-1].answer) == (300, OK)


async def test_a_server_that_is_away_for_a_moment_loses_all_at_once_and_ends_nothing() -> None:
    sender = ScriptedSender(*[UnavailableError("gone")] * 3, OK)
    means = Means(sender, Concurrency(50), AtOnce(16), clock=lambda: 0.0)
    outcomes: list[Outcome] = []
    await run_batch(requests(100), means, outcomes.append)
    assert [outcome.answer for outcome in outcomes] == [OK] * 100


async def test_a_request_that_ends_engines_is_sent_twice_and_no_more() -> None:
    sender = ScriptedSender(POISONED)
    outcomes = await outcomes_of(sender, max_retries=16)
    assert (outcomes, sender.attempts) == ([Outcome("r0", POISONED)], {"r0": 2})
    assert not is_final(POISONED.status)


async def test_a_neighbour_of_it_is_answered_though_the_engine_is_long_away() -> None:
    sender = ScriptedSender(FULL, POISONED, FULL, FULL, OK)
    assert await outcomes_of(sender, max_retries=16) == [Outcome("r0", OK)]


async def test_the_requests_that_wait_are_counted_with_the_newest_error() -> None:
    sender, waiting = ScriptedSender(FULL), Waiting()
    means = Means(sender, Concurrency(50), Retry(10_000), waiting)
    task = asyncio.create_task(run_batch(requests(2), means, lambda _: None))
    while waiting.num < 2:
        await asyncio.sleep(0.001)
    assert str(waiting) == "2 waiting to be sent again: 429 overloaded"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert str(waiting) == ""


async def test_an_unknown_key_ends_the_batch_at_once() -> None:
    sender = ScriptedSender(Answer(401, "id", "no such key"))
    with pytest.raises(UnauthenticatedError, match="does not know the key: no such key"):
        await outcomes_of(sender, num=1000)
    assert len(sender.attempts) <= 4


async def test_a_cancelled_batch_leaves_no_request_open() -> None:
    sender = ScriptedSender(FULL)
    task = asyncio.create_task(outcomes_of(sender, num=10, max_retries=10_000))
    while sender.attempts.total() < 8:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sender.num_open == 0
