"""What each replica has been charged with: reservations, made at decision time.

Choosing first and charging later would send a burst of requests to the one
replica that looked idle; so `reserve` decides and charges in one step.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random

from router.charge import Charge
from router.filter import has_room
from router.pick import pick
from router.policies import FALLBACKS
from router.replica_account import ReplicaAccount
from router.score import prefill_tokens
from router.sessions import Sessions
from router.settings import RouterSection
from router.types import (
    NO_PREFIX,
    Candidate,
    Decision,
    Load,
    LoadReport,
    ReplicaId,
    ReplicaState,
    RoutedRequest,
    UsablePrefix,
)

Prefixes = Mapping[ReplicaId, UsablePrefix]


class Reservation:
    """Load of one request on the replica of its decision."""

    def __init__(self, decision: Decision, num_prefill_tokens: int, charge: Charge) -> None:
        self.decision = decision
        self.num_prefill_tokens = num_prefill_tokens
        """Work of the prompt that the replica was charged with."""
        self.on_output = charge.on_output
        self.end = charge.end
        self._charge = charge

    @property
    def load(self) -> Load:
        """What the replica is charged with at the moment."""
        return self._charge.load


class Ledger:
    """Reservations of all requests that this gateway has under way with one model."""

    def __init__(self, section: RouterSection, random: Random) -> None:
        """`random` is what `power_of_two` draws by."""
        self._section = section
        self._random = random
        self._sessions = Sessions(section.max_sessions)
        self._accounts: dict[ReplicaId, ReplicaAccount] = {}
        self._open: dict[Reservation, ReplicaAccount] = {}

    def set_replicas(self, replica_to_state: Mapping[ReplicaId, ReplicaState]) -> None:
        """These are there from here on, and only those that are ready may be chosen. One
        that becomes ready starts level with the least used."""
        counts = [a.num_chosen for a in self._accounts.values() if a.state == "ready"]
        floor = min(counts, default=0)
        known = self._accounts
        self._accounts = {}
        for replica_id, state in replica_to_state.items():
            account = known.get(replica_id)
            if account is None:
                account = ReplicaAccount(replica_id, self._section.report_max_age_s)
            if state == "ready" and account.state != "ready":
                account.num_chosen = max(account.num_chosen, floor)
            account.state = state
            self._accounts[replica_id] = account

    def take_report(self, replica_id: ReplicaId, report: LoadReport, now_s: float) -> None:
        """A replica tells its load; one that is not there any more is not listened to."""
        if replica_id in self._accounts:
            self._accounts[replica_id].take_report(report, now_s)

    def forget_report(self, replica_id: ReplicaId) -> None:
        """The link to it broke."""
        if replica_id in self._accounts:
            self._accounts[replica_id].forget_report()

    def candidates(
        self, request: RoutedRequest, prefixes: Prefixes, now_s: float
    ) -> list[Candidate]:
        """All replicas that are there, as they stand for this request."""
        last = self._sessions.last_replica(request.session)
        return [
            account.candidate(request, prefixes.get(replica_id, NO_PREFIX), last, now_s)
            for replica_id, account in self._accounts.items()
        ]

    @contextmanager
    def reserve(
        self, request: RoutedRequest, prefixes: Prefixes | None, now_s: float
    ) -> Iterator[Reservation]:
        """Decide, charge, and give back at the end of the block.

        `prefixes` is None where the index is away: see `FALLBACKS`. Raises
        NoReplicaError where no replica may be chosen.
        """
        decision = self.decide(request, prefixes, now_s)
        account = self._accounts[decision.replica_id]
        account.num_chosen += 1
        account.note_adapter(request.adapter)
        self._sessions.note(request.session, account.replica_id)
        num_prefill = prefill_tokens(decision.chosen, request, self._section.cost)
        load = Load(num_prefill, request.num_sequences, request.num_prompt_tokens)
        reservation = Reservation(decision, num_prefill, Charge((account.own,), load))
        self._open[reservation] = account
        try:
            yield reservation
        finally:
            reservation.end()
            del self._open[reservation]

    def decide(
        self, request: RoutedRequest, prefixes: Prefixes | None, now_s: float
    ) -> Decision:
        """The decision alone; nothing is charged. Raises NoReplicaError."""
        policy = self._section.policy
        applied = FALLBACKS.get(policy, policy) if prefixes is None else policy
        candidates = self.candidates(request, prefixes or {}, now_s)
        return pick(
            candidates, request, self._section.cost, self._random, policy, applied=applied
        )

    def has_room(self, request: RoutedRequest, prefixes: Prefixes, now_s: float) -> bool:
        """Some ready replica's KV cache can hold the request, or may; true also where
        none is ready, as that is another matter."""
        ready = [c for c in self.candidates(request, prefixes, now_s) if c.state == "ready"]
        return not ready or any(has_room(c, request) for c in ready)

    def check_invariants(self) -> None:
        """Each account's sum is that of its open reservations; nothing is below zero."""
        self._sessions.check_invariants()
        accounts = {*self._accounts.values(), *self._open.values()}
        for account in accounts:
            held = [r.load for r, owner in self._open.items() if owner is account]
            total = Load()
            for load in held:
                assert min(load.queued_prefill_tokens, load.num_sequences) >= 0
                assert load.context_tokens >= 0
                total = total.plus(load)
            assert account.own.load == total
        assert all(a.replica_id == r for r, a in self._accounts.items())
