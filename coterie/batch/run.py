"""Running a batch: requests go out as the server takes them, outcomes come back.

In memory are the requests under way alone: the next one is read when there is room.

A batch ends early where no one seems to be there any more: after 20 attempts in a row
without an answer, once the silence has outlasted the patience. That is as long as the
retries of a request take, and at most a minute before the first answer of the run, ten
after it: a server that starts anew may take minutes to load its model.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from coterie.batch.concurrency import Concurrency
from coterie.batch.retry import Attempts, Retry
from coterie.batch.send import Sender
from coterie.batch.types import Answer, BatchRequest, Fault, Outcome, is_final
from coterie.batch.waiting import Waiting
from coterie.errors import CoterieError, UnavailableError
from coterie.hints import hinted
from coterie.model_list import unknown_key

_MAX_UNANSWERED = 20
_PATIENCE_AT_FIRST_S = 60.0
_PATIENCE_S = 600.0

Clock = Callable[[], float]
OnOutcome = Callable[[Outcome], None]


@dataclass(frozen=True)
class Means:
    """By what requests are sent, and who says how many at a time and how often."""

    sender: Sender
    concurrency: Concurrency
    retry: Retry
    waiting: Waiting = field(default_factory=Waiting)
    clock: Clock = time.monotonic
    chance: Callable[[], float] = field(default=random.random)


async def run_batch(
    requests: Iterator[BatchRequest], means: Means, on_outcome: OnOutcome
) -> None:
    """Send all requests; `on_outcome` gets each one's outcome as it ends.

    Raises UnauthenticatedError where the server does not know the key, UnavailableError
    where nothing answers, or so many requests in a row got no answer that no one seems to
    be there any more. A cancelled batch ends its open requests, of which there is no
    outcome.
    """
    await means.sender.check()
    run = _Run(means, on_outcome)
    try:
        await run.send_all(requests)
    except ExceptionGroup as group:
        ours, others = group.split(CoterieError)
        if ours is None or others is not None:
            raise
        # One stops the batch; others may have met the same.
        raise ours.exceptions[0] from None


class _Run:
    def __init__(self, means: Means, on_outcome: OnOutcome) -> None:
        self._means = means
        self._on_outcome = on_outcome
        self._num_begun = 0
        """Requests without an outcome, those included that wait to be sent again."""
        self._num_sent = 0
        self._num_unanswered = 0
        """Attempts in a row."""
        self._silent_since_s = 0.0
        self._patience_s = means.retry.lasts_s(at_most_s=_PATIENCE_AT_FIRST_S)
        self._has_changed = asyncio.Event()

    async def send_all(self, requests: Iterator[BatchRequest]) -> None:
        limit = self._means.concurrency
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await self._wait_until(lambda: self._num_begun < limit.limit)
                self._num_begun += 1
                group.create_task(self._finish(request))

    async def _finish(self, request: BatchRequest) -> None:
        found = await self._last_of(request)
        answer = found if isinstance(found, Answer) else None
        fault = None if isinstance(found, Answer) else found
        self._on_outcome(Outcome(request.custom_id, answer, fault))
        self._check_is_anyone_there(found)
        self._num_begun -= 1
        self._has_changed.set()

    async def _last_of(self, request: BatchRequest) -> Answer | Fault:
        """What its last attempt ended with."""
        means = self._means
        attempts = Attempts(means.retry)
        while True:
            found = await self._attempt(request)
            self._count_unanswered(found)
            delay_s = attempts.next_delay_s(found, means.chance())
            if delay_s is None:
                return found
            self._check_is_anyone_there(found)
            with means.waiting.counted(found):
                await asyncio.sleep(delay_s)

    def _count_unanswered(self, found: Answer | Fault) -> None:
        if isinstance(found, Answer):
            self._num_unanswered = 0
            self._patience_s = self._means.retry.lasts_s(at_most_s=_PATIENCE_S)
            return
        if not self._num_unanswered:
            self._silent_since_s = self._means.clock()
        self._num_unanswered += 1

    def _check_is_anyone_there(self, found: Answer | Fault) -> None:
        """Raises UnavailableError where a request without an answer is one too many."""
        if isinstance(found, Answer) or self._num_unanswered < _MAX_UNANSWERED:
            return
        if self._means.clock() - self._silent_since_s >= self._patience_s:
            told = UnavailableError(
                f"{self._num_unanswered} attempts in a row got no answer; the last: {found}"
            )
            raise hinted(told, "see that the server runs, and give the same command again")

    async def _attempt(self, request: BatchRequest) -> Answer | Fault:
        """One sending, as soon as the limit has room for it."""
        means = self._means
        await self._wait_until(lambda: self._num_sent < means.concurrency.limit)
        self._num_sent += 1
        sent_s = means.clock()
        try:
            answer = await means.sender.send(request)
        except CoterieError as error:
            return Fault(error.kind, str(error))
        finally:
            self._num_sent -= 1
            self._has_changed.set()
        self._note(answer, sent_s)
        return answer

    def _note(self, answer: Answer, sent_s: float) -> None:
        now_s = self._means.clock()
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise unknown_key(answer.body)
        if not is_final(answer.status):
            self._means.concurrency.on_refused(sent_s, now_s)
        elif answer.is_ok:
            self._means.concurrency.on_finished(now_s, answer.num_tokens or 1)

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what an attempt's or a request's end may bring about."""
        while not is_so():
            self._has_changed.clear()
            await self._has_changed.wait()
