"""The places of one model, and who waits for them; `router.admission` decides."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.errors import CapacityError
from router.tenants import TenantAccount
from router.types import PRIORITIES, Priority, TenantId

_MAX_RETRY_S = 60.0
_NUM_ENDS = 64
"""Requests over whose ends the rate of service is measured."""


@dataclass(frozen=True)
class Demand:
    """What a request asks for; each of its outputs takes a place.

    One that `is_divisible` is many small pieces of work: it takes up to `num_outputs`
    places, as many as it finds, and one will do. `has_room` says whether some engine
    replica's KV cache can hold it at this moment, as far as that is known.
    """

    model: str
    tenant: TenantId
    priority: Priority
    num_prompt_tokens: int
    num_outputs: int
    is_divisible: bool = False
    has_room: Callable[[], bool] | None = None


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

    @property
    def num_held_outputs(self) -> int:
        """Sequences that those want who wait."""
        queues = (q for by_account in self.held.values() for q in by_account.values())
        return sum(ticket.demand.num_outputs for queue in queues for ticket in queue)

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

    def needed(self, ticket: Ticket) -> int:
        """How many it takes here at least."""
        demand = ticket.demand
        return min(1 if demand.is_divisible else demand.num_outputs, self.num_places)

    def places_for(self, ticket: Ticket, room: int) -> int:
        """How many it takes of `room` places and those that are free."""
        if not ticket.demand.is_divisible:
            return self.needed(ticket)
        return min(ticket.demand.num_outputs, room, self.num_places - self.num_taken)

    def fits(self, ticket: Ticket) -> bool:
        """The places that it needs are free."""
        return 0 < self.needed(ticket) <= self.num_places - self.num_taken

    def has_room(self, ticket: Ticket) -> bool:
        """Some KV cache can hold it; where nothing runs it is sent all the same, so that
        none waits for room that only others can make."""
        can_hold = ticket.demand.has_room
        return not self.num_taken or can_hold is None or can_hold()

    def retry_after_s(self, now_s: float) -> float:
        """When what waits now may have been served, by the latest rate of service."""
        if len(self.ends_s) < 2:
            return 1.0
        per_request_s = (now_s - self.ends_s[0]) / len(self.ends_s)
        return min(_MAX_RETRY_S, max(1.0, self.num_held * per_request_s))

    def full_error(self, words: str, now_s: float) -> CapacityError:
        """What a request is told that finds no room here."""
        after_s = self.retry_after_s(now_s)
        return CapacityError(f"{words}; try again in {after_s:.0f} s", retry_after_s=after_s)
