"""Who may begin now: places, priorities, and fair sharing between tenants.

A model has *places*: as many sequences as its ready engine replicas work on in
one step. A request that finds no place is *held*, and so is one that no replica's KV
cache can hold at the moment: sent there, it would wait or make others be preempted.
When there is a place and room, the next to *admit* is chosen:

1. by priority: high before normal before low; low takes no more than its share
   of the places, so that idle capacity is filled and others still begin at once;
2. among tenants, the one that has received the least service: a prompt token
   counts 1, an output token 2, over the tenant's weight. A tenant that comes
   back after a pause starts level with those that wait, without credit for its
   silence (virtual token counter: Sheng et al., "Fairness in Serving Large
   Language Models", OSDI 2024);
3. within a tenant, the first come; and a request that waits for its own tenant's
   places to become free is not passed by others of that tenant of lower priority.

A tenant that owes tokens (`router.token_bucket`) begins nothing until it owes none.

A part of the places is kept for tenants with less than their fair share, so that
a flood by one tenant does not make the others wait for its sequences to end.

Worked example: 32 places, two tenants of equal weight, a tenth reserved: one
tenant alone runs 28 sequences (32 - 4). The other's first 16 requests find the
4 free places at once, and then every place that the first one gives back.

Everything here is a decision: no clock, no waiting. Methods return the tickets
that they admit; `deployments.gateway.admission_gate` wakes whoever waits for them.
"""

import math
from dataclasses import replace
from itertools import chain

from router.model_queue import Demand, ModelQueue, Ticket
from router.settings import AdmissionSection
from router.tenants import TenantAccount, Tenants
from router.types import PRIORITIES, TenantId


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

    def set_places(self, model: str, num_places: int, now_s: float) -> list[Ticket]:
        """The model's ready replicas have changed; returns who is admitted by that."""
        self._queue(model).num_places = num_places
        return self._admit(model, now_s)

    def set_num_gateways(self, num_gateways: int, now_s: float) -> list[Ticket]:
        """So many share the tenants' limits now; returns who is admitted by that."""
        self._tenants.set_num_gateways(num_gateways, now_s)
        return self.admit(now_s)

    def admit(self, now_s: float) -> list[Ticket]:
        """Time has passed; returns who is admitted by that."""
        return list(chain.from_iterable(self._admit(model, now_s) for model in self._queues))

    def look_again(self, model: str, now_s: float) -> list[Ticket]:
        """Replicas of the model may have more room; returns who is admitted by that."""
        return self._admit(model, now_s) if self._queue(model).num_held else []

    def room_in_s(self, now_s: float) -> float | None:
        """Until the first tenant with held requests owes nothing more; None where
        none of them owes anything."""
        debts_s = [
            debt_s
            for queue in self._queues.values()
            for by_account in queue.held.values()
            for account in by_account
            if (debt_s := account.debt_s(now_s)) > 0
        ]
        return min(debts_s, default=None)

    def has_places(self, model: str) -> bool:
        """At least one engine replica of the model is ready."""
        return self._queue(model).num_places > 0

    def num_held(self, model: str) -> int:
        """Requests that wait for a place."""
        return self._queue(model).num_held

    def num_held_outputs(self, model: str) -> int:
        """Sequences that those want who wait for a place."""
        return self._queue(model).num_held_outputs

    def num_taken(self, model: str) -> int:
        """Places taken."""
        return self._queue(model).num_taken

    def check(self, model: str, tenant: TenantId, now_s: float) -> None:
        """Raises CapacityError where `offer` surely would: to be asked before any
        work is put into a request."""
        account = self._tenants.account(tenant)
        account.check_rates(1, now_s)
        queue = self._queue(model)
        words = self._full_words(queue, account)
        if words and queue.num_held:
            raise queue.full_error(words, now_s)

    def offer(self, demand: Demand, now_s: float) -> tuple[Ticket, list[Ticket]]:
        """Admit the request or hold it; returns its ticket, and who is admitted now: it
        or, as outputs have changed whose turn it is, others.

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
        words = self._full_words(queue, account)
        if words and not self._may_begin(queue, ticket, now_s):
            raise queue.full_error(words, now_s)
        self._next_number += 1
        account.begin(demand.num_prompt_tokens, now_s)
        queue.add(ticket)
        return ticket, self._admit(demand.model, now_s)

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
        return self.admit(now_s)

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

    def _admit(self, model: str, now_s: float) -> list[Ticket]:
        queue = self._queue(model)
        admitted = []
        while (ticket := self._next(queue, now_s)) is not None:
            queue.remove(ticket)
            ticket.is_admitted = True
            ticket.num_places = queue.places_for(ticket, self._room(queue, ticket))
            queue.take(ticket, 1)
            ticket.account.num_running += 1
            self._level = ticket.account.service
            ticket.account.serve_prompt(ticket.demand.num_prompt_tokens)
            admitted.append(ticket)
        return admitted

    def _next(self, queue: ModelQueue, now_s: float) -> Ticket | None:
        """Who is to begin, if anybody may. The first in line is not passed by for
        want of places or room by one that needs less."""
        passed: set[TenantAccount] = set()
        for priority in PRIORITIES:
            heads = [
                q[0] for account, q in queue.held[priority].items() if account not in passed
            ]
            ready = [t for t in heads if self._has_room(queue, t, now_s)]
            if ready:
                first = min(ready, key=lambda t: (t.account.service, t.number))
                return first if self._fits(queue, first) else None
            passed.update(t.account for t in heads)
        return None

    def _may_begin(self, queue: ModelQueue, ticket: Ticket, now_s: float) -> bool:
        """It would be admitted at once: nobody waits before it."""
        has_room = not queue.num_held and self._has_room(queue, ticket, now_s)
        return has_room and self._fits(queue, ticket)

    def _fits(self, queue: ModelQueue, ticket: Ticket) -> bool:
        if not queue.fits(ticket):
            return False
        return not self._section.hold_for_kv_room or queue.has_room(ticket)

    def _has_room(self, queue: ModelQueue, ticket: Ticket, now_s: float) -> bool:
        has_share = queue.needed(ticket) <= self._room(queue, ticket)
        return has_share and ticket.account.has_room(now_s)

    def _full_words(self, queue: ModelQueue, account: TenantAccount) -> str:
        """Why one more may not be held; empty where it may."""
        if account.num_held >= account.max_held:
            return f"tenant {account.name} has {account.num_held} requests waiting"
        if queue.num_held >= self._section.max_queued_requests:
            return "too many requests wait for this model"
        return ""

    def _room(self, queue: ModelQueue, ticket: Ticket) -> int:
        """Places that it may take so that what is kept for others is left to them. Who
        has none gets as many as it needs, whatever its share."""
        needed, num_places = queue.needed(ticket), queue.num_places
        taken = queue.account_to_taken.get(ticket.account, 0)
        share = ticket.account.weight / self._tenants.total_weight
        fair_left = max(1, math.floor(share * num_places)) - taken
        kept = math.ceil(self._section.reserved_share * num_places)
        room = max(fair_left, num_places - kept - queue.num_taken)
        if not taken:
            room = max(room, needed)
        if ticket.demand.priority == "low":
            low_places = max(1, math.floor(self._section.low_priority_share * num_places))
            low_room = low_places - queue.num_taken_low
            room = min(room, low_room if queue.num_taken_low else max(low_room, needed))
        return room

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
