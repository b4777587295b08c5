"""Who may begin now: places, priorities, and fair sharing between tenants.

A model has *places*: as many sequences as its ready engine replicas work on in
one step. A request that finds no place is *held*. When one becomes free, the
next to *admit* is chosen:

1. by priority: high before normal before low; low takes no more than its share
   of the places, so that idle capacity is filled and others still begin at once;
2. among tenants, the one that has received the least service: a prompt token
   counts 1, an output token 2, over the tenant's weight. A tenant that comes
   back after a pause starts level with those that wait, without credit for its
   silence (virtual token counter: Sheng et al., "Fairness in Serving Large
   Language Models", OSDI 2024);
3. within a tenant, the first come.

A part of the places is kept for tenants with less than their fair share, so that
a flood by one tenant does not make the others wait for its sequences to end.

Worked example: 32 places, two tenants of equal weight, a tenth reserved: one
tenant alone runs 28 sequences (32 - 4). The other's first 16 requests find the
4 free places at once, and then every place that the first one gives back.

Everything here is a decision: no clock, no waiting. Methods return the tickets
that they admit; `deployments.gateway.admission_gate` wakes whoever waits for them.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import chain

from infra.errors import CapacityError
from router.settings import AdmissionSection
from router.tenants import TenantAccount, Tenants
from router.types import PRIORITIES, Priority, TenantId

_MAX_RETRY_S = 60.0
_NUM_ENDS = 64
"""Requests over whose ends the rate of service is measured."""


@dataclass(frozen=True)
class Demand:
    """What a request asks for; each of its outputs takes a place."""

    model: str
    tenant: TenantId
    priority: Priority
    num_prompt_tokens: int
    num_outputs: int


@dataclass(eq=False)
class Ticket:
    """A request from its coming to its end."""

    demand: Demand
    account: TenantAccount
    number: int
    is_admitted: bool = False
    is_over: bool = False
    num_places: int = 0
    """Places that it takes while it runs."""


@dataclass(eq=False)
class ModelQueue:
    """The places of one model, and who waits for them."""

    num_places: int = 0
    num_taken: int = 0
    num_taken_low: int = 0
    account_to_taken: dict[TenantAccount, int] = field(default_factory=dict)
    held: dict[Priority, dict[TenantAccount, deque[Ticket]]] = field(
        default_factory=lambda: {priority: {} for priority in PRIORITIES}
    )
    ends_s: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_ENDS))

    @property
    def num_held(self) -> int:
        """Requests that wait."""
        return sum(len(q) for by_account in self.held.values() for q in by_account.values())

    def add(self, ticket: Ticket) -> None:
        """Hold it, behind the tenant's others of the same priority."""
        by_account = self.held[ticket.demand.priority]
        by_account.setdefault(ticket.account, deque()).append(ticket)
        ticket.account.num_held += 1

    def remove(self, ticket: Ticket) -> None:
        """Hold it no more."""
        by_account = self.held[ticket.demand.priority]
        by_account[ticket.account].remove(ticket)
        if not by_account[ticket.account]:
            del by_account[ticket.account]
        ticket.account.num_held -= 1

    def take(self, ticket: Ticket, sign: int) -> None:
        """Count its places as taken (1) or as free again (-1)."""
        change = sign * ticket.num_places
        self.num_taken += change
        if ticket.demand.priority == "low":
            self.num_taken_low += change
        left = self.account_to_taken.get(ticket.account, 0) + change
        if left:
            self.account_to_taken[ticket.account] = left
        else:
            del self.account_to_taken[ticket.account]

    def retry_after_s(self, now_s: float) -> float:
        """When what waits now may have been served, by the latest rate of service."""
        if len(self.ends_s) < 2:
            return 1.0
        per_request_s = (now_s - self.ends_s[0]) / len(self.ends_s)
        return min(_MAX_RETRY_S, max(1.0, self.num_held * per_request_s))


class Admission:
    """Decides for all models of one gateway; see the module's docstring."""

    def __init__(self, section: AdmissionSection, tenants: Tenants) -> None:
        self._section = section
        self._tenants = tenants
        self._queues: dict[str, ModelQueue] = {}
        self._next_number = 0
        self._level = 0.0  # service, when it was chosen, of the tenant chosen last

    def cache_salt(self, tenant: TenantId) -> str | None:
        """By which the tenant's prefixes are kept apart in the engines' caches."""
        return self._tenants.account(tenant).cache_salt

    def set_places(self, model: str, num_places: int) -> list[Ticket]:
        """The model's ready replicas have changed; returns who is admitted by that."""
        self._queue(model).num_places = num_places
        return self._admit(model)

    def has_places(self, model: str) -> bool:
        """At least one engine replica of the model is ready."""
        return self._queue(model).num_places > 0

    def num_held(self, model: str) -> int:
        """Requests that wait for a place."""
        return self._queue(model).num_held

    def num_running(self, model: str) -> int:
        """Places taken."""
        return self._queue(model).num_taken

    def check(self, model: str, tenant: TenantId, now_s: float) -> None:
        """Raises CapacityError where `offer` surely would: to be asked before any
        work is put into a request."""
        account = self._tenants.account(tenant)
        account.check_rates(1, now_s)
        queue = self._queue(model)
        if queue.num_held > self._section.max_queued_requests:
            raise _full(queue, "too many requests wait for this model", now_s)

    def offer(self, demand: Demand, now_s: float) -> Ticket:
        """Admit the request or hold it.

        Raises CapacityError, with when to come again, where the tenant's rate is
        used up or the queue is full.
        """
        account = self._tenants.account(demand.tenant)
        account.check_rates(demand.num_prompt_tokens, now_s)
        queue = self._queue(demand.model)
        demand = replace(demand, priority=account.priority(demand.priority))
        ticket = Ticket(demand, account, self._next_number)
        if not account.num_held:
            self._lift(account)
        is_full = queue.num_held >= self._section.max_queued_requests
        is_tenant_full = account.num_held >= account.max_held
        if (is_full or is_tenant_full) and not self._may_begin(queue, ticket):
            words = "too many requests wait for this model"
            if is_tenant_full:
                words = f"tenant {account.name} has {account.num_held} requests waiting"
            raise _full(queue, words, now_s)
        self._next_number += 1
        account.begin(demand.num_prompt_tokens, now_s)
        queue.add(ticket)
        self._admit(demand.model)
        return ticket

    def count_outputs(self, ticket: Ticket, num_tokens: int, now_s: float) -> None:
        """Count output tokens as they are made."""
        ticket.account.serve_outputs(num_tokens, now_s)

    def end(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """The request has ended, however; returns who is admitted by that."""
        assert not ticket.is_over
        ticket.is_over = True
        queue = self._queue(ticket.demand.model)
        if not ticket.is_admitted:
            queue.remove(ticket)
            ticket.account.undo(ticket.demand.num_prompt_tokens)
        else:
            queue.take(ticket, -1)
            queue.ends_s.append(now_s)
            ticket.account.num_running -= 1
        # The tenant may run one more, of whatever model.
        return list(chain.from_iterable(self._admit(model) for model in self._queues))

    def check_invariants(self) -> None:
        """Places add up; no tenant is over its limits; no empty queue is kept."""
        self._tenants.check_invariants()
        for queue in self._queues.values():
            assert queue.num_taken == sum(queue.account_to_taken.values())
            assert 0 <= queue.num_taken_low <= queue.num_taken
            for by_account in queue.held.values():
                assert all(by_account.values())
                for tickets in by_account.values():
                    numbers = [t.number for t in tickets]
                    assert numbers == sorted(numbers)
                    assert not any(t.is_admitted or t.is_over for t in tickets)

    def _admit(self, model: str) -> list[Ticket]:
        queue = self._queue(model)
        admitted = []
        while (ticket := self._next(queue)) is not None:
            queue.remove(ticket)
            ticket.is_admitted = True
            ticket.num_places = min(ticket.demand.num_outputs, queue.num_places)
            queue.take(ticket, 1)
            ticket.account.num_running += 1
            self._level = ticket.account.service
            ticket.account.serve_prompt(ticket.demand.num_prompt_tokens)
            admitted.append(ticket)
        return admitted

    def _next(self, queue: ModelQueue) -> Ticket | None:
        """Who is to begin, if anybody may. The first in line is not passed by for
        want of places by one that needs fewer."""
        for priority in PRIORITIES:
            heads = [tickets[0] for tickets in queue.held[priority].values()]
            ready = [t for t in heads if t.account.has_room and self._is_in_share(queue, t)]
            if ready:
                first = min(ready, key=lambda t: (t.account.service, t.number))
                return first if _fits(queue, first) else None
        return None

    def _may_begin(self, queue: ModelQueue, ticket: Ticket) -> bool:
        """It would be admitted at once: nobody waits before it."""
        return (
            not queue.num_held
            and ticket.account.has_room
            and self._is_in_share(queue, ticket)
            and _fits(queue, ticket)
        )

    def _is_in_share(self, queue: ModelQueue, ticket: Ticket) -> bool:
        """It takes no place that is kept for others."""
        needed = min(ticket.demand.num_outputs, queue.num_places)
        if ticket.demand.priority == "low":
            low_places = max(1, math.floor(self._section.low_priority_share * queue.num_places))
            if queue.num_taken_low and queue.num_taken_low + needed > low_places:
                return False
        share = ticket.account.weight / self._tenants.total_weight
        fair_places = max(1.0, share * queue.num_places)
        taken = queue.account_to_taken.get(ticket.account, 0)
        if taken + needed <= fair_places or not taken:
            return True
        kept = math.ceil(self._section.reserved_share * queue.num_places)
        return queue.num_taken + needed <= queue.num_places - kept

    def _lift(self, account: TenantAccount) -> None:
        """No credit for the time in which it asked for nothing: level with the least
        of those that wait, or else with the last that was chosen."""
        waiting = [
            other.service
            for queue in self._queues.values()
            for by_account in queue.held.values()
            for other in by_account
        ]
        account.service = max(account.service, min(waiting, default=self._level))

    def _queue(self, model: str) -> ModelQueue:
        return self._queues.setdefault(model, ModelQueue())


def _fits(queue: ModelQueue, ticket: Ticket) -> bool:
    needed = min(ticket.demand.num_outputs, queue.num_places)
    return 0 < needed <= queue.num_places - queue.num_taken


def _full(queue: ModelQueue, words: str, now_s: float) -> CapacityError:
    after_s = queue.retry_after_s(now_s)
    return CapacityError(f"{words}; try again in {after_s:.0f} s", retry_after_s=after_s)
