"""Where requests wait to be admitted: `router.admission` decides, this waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from infra.errors import CapacityError, CoterieError, DeadlineError, NoReplicaError
from router.admission import Admission
from router.model_queue import Demand, Ticket
from router.settings import AdmissionSection
from router.types import TenantId


class Admitted:
    """A request that may run; what it makes is counted here."""

    def __init__(
        self, admission: Admission, ticket: Ticket, clock: Callable[[], float]
    ) -> None:
        self._admission = admission
        self._ticket = ticket
        self._clock = clock

    @property
    def num_places(self) -> int:
        """Places that it has."""
        return self._ticket.num_places

    def count_outputs(self, num_tokens: int) -> None:
        """So many output tokens more."""
        self._admission.count_outputs(self._ticket, num_tokens, self._clock())


Admitting = Callable[[float], AbstractAsyncContextManager[Admitted | None]]
"""Waits, for at most so many seconds, until a request may begin; see `AdmissionGate.admitted`.
None where another request, of which it is a part, has been admitted for it."""


class AdmissionGate:
    """All models of one gateway; `replica_wait_s` of a model as in `served_model`."""

    def __init__(
        self,
        admission: Admission,
        section: AdmissionSection,
        replica_wait_s: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._section = section
        self._replica_wait_s = replica_wait_s
        self._clock = clock
        self._waiting: dict[Ticket, asyncio.Event] = {}
        """Set where the ticket is worth a look: admitted, or to wait for longer or less."""
        self._timer: asyncio.TimerHandle | None = None

    def set_places(self, model: str, num_places: int) -> None:
        """The model's ready replicas have changed; call it in the event loop."""
        self._wake(self._admission.set_places(model, num_places, self._clock()))
        for ticket, event in self._waiting.items():
            if ticket.demand.model == model:
                event.set()

    def set_num_gateways(self, num_gateways: int) -> None:
        """So many share the tenants' limits now; call it in the event loop."""
        self._wake(self._admission.set_num_gateways(num_gateways, self._clock()))

    def look_again(self, model: str) -> None:
        """Replicas of the model have told their load, and may have more room."""
        if self._waiting:
            self._wake(self._admission.look_again(model, self._clock()))

    def check(self, model: str, tenant: TenantId) -> None:
        """Raises CapacityError where the request would surely be turned away."""
        self._admission.check(model, tenant, self._clock())

    def cache_salt(self, tenant: TenantId) -> str | None:
        """By which the tenant's prefixes are kept apart in the engines' caches."""
        return self._admission.cache_salt(tenant)

    def num_held(self, model: str) -> int:
        """Requests that wait for the model."""
        return self._admission.num_held(model)

    def num_held_outputs(self, model: str) -> int:
        """Sequences that those want who wait for the model."""
        return self._admission.num_held_outputs(model)

    def num_taken(self, model: str) -> int:
        """Places of the model that are taken."""
        return self._admission.num_taken(model)

    @asynccontextmanager
    async def admitted(self, demand: Demand, timeout_s: float) -> AsyncIterator[Admitted]:
        """Wait until the request may begin; it is over when the block is left.

        Raises CapacityError where it is turned away, at once or after `max_queue_s`
        beside replicas that are ready; NoReplicaError where no replica comes; DeadlineError
        where it has not begun within `timeout_s`.
        """
        ticket, admitted = self._admission.offer(demand, self._clock())
        self._wake(admitted)
        try:
            if not ticket.is_admitted:
                await self._wait(ticket, timeout_s)
            yield Admitted(self._admission, ticket, self._clock)
        finally:
            self._wake(self._admission.end(ticket, self._clock()))

    def check_invariants(self) -> None:
        """Those who wait are held, or have just been admitted and woken."""
        self._admission.check_invariants()
        assert all(e.is_set() for ticket, e in self._waiting.items() if ticket.is_admitted)

    async def _wait(self, ticket: Ticket, timeout_s: float) -> None:
        began_s = since_s = self._clock()
        has_places = self._has_places(ticket)
        event = self._waiting[ticket] = asyncio.Event()
        try:
            while not ticket.is_admitted:
                if has_places is not self._has_places(ticket):
                    # To wait for a replica is not to wait for one's turn.
                    has_places, since_s = not has_places, self._clock()
                limit_s = self._limit_s(ticket)
                left_s = min(since_s + limit_s, began_s + timeout_s) - self._clock()
                if left_s <= 0:
                    is_late = self._clock() >= began_s + timeout_s
                    raise self._turned_away(ticket, limit_s, timeout_s if is_late else None)
                event.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await event.wait()
        finally:
            del self._waiting[ticket]

    def _has_places(self, ticket: Ticket) -> bool:
        return self._admission.has_places(ticket.demand.model)

    def _limit_s(self, ticket: Ticket) -> float:
        if self._has_places(ticket):
            return self._section.max_queue_s
        return self._replica_wait_s(ticket.demand.model)

    def _turned_away(
        self, ticket: Ticket, limit_s: float, timeout_s: float | None
    ) -> CoterieError:
        """`timeout_s` is given where that has passed."""
        if timeout_s is not None:
            return DeadlineError(f"not begun within {timeout_s:g} s: too many requests wait")
        if not self._has_places(ticket):
            model = ticket.demand.model
            return NoReplicaError(f"no engine replica of {model} is ready; try again")
        return CapacityError(
            f"not begun within {limit_s:g} s: too many requests wait; try again later",
            retry_after_s=limit_s,
        )

    def _wake(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            # One that has just been offered does not wait yet.
            if ticket in self._waiting:
                self._waiting[ticket].set()
        self._look_again_when_paid()

    def _look_again_when_paid(self) -> None:
        """Nothing else happens when a tenant has worked off what it owes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        in_s = self._admission.room_in_s(self._clock())
        if in_s is not None:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._look_when_paid)

    def _look_when_paid(self) -> None:
        self._timer = None
        self._wake(self._admission.admit(self._clock()))
