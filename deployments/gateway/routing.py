"""Routing of one model's calls: the router's decisions, and what is known for them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random

import msgspec

from deployments.gateway.decision_log import DecidedCall, DecisionLog
from deployments.types import Call, Delta
from router.consistent_hash import hash_keys
from router.ledger import Ledger, Prefixes, Reservation
from router.policies import FALLBACKS
from router.prefix_lookup import FoundPrefixes, PrefixLookup
from router.settings import RouterSection
from router.types import HashKeys, LoadReport, ReplicaId, ReplicaState, RoutedRequest


class RoutedCall:
    """A call that a replica is charged with; it hears of the call's deltas."""

    def __init__(
        self, call: Call, reservation: Reservation, log: DecisionLog, decided: DecidedCall
    ) -> None:
        ranks = reservation.decision.chosen.prefix.rank_tokens
        self.call = msgspec.structs.replace(call, rank_prefixes=ranks) if ranks else call
        """As the replica is to get it."""
        self.replica_id = reservation.decision.replica_id
        self.num_prefill_tokens = reservation.num_prefill_tokens
        self._reservation = reservation
        self._log = log
        self._decided = decided

    def saw(self, delta: Delta) -> None:
        """One delta has come."""
        if self._decided.num_found_cached_tokens is None:
            self._log.note_cached(self._decided, delta.num_cached_tokens)
        self._reservation.on_output(
            delta.index, len(delta.token_ids), is_finished=delta.finish_reason is not None
        )


class Routing:
    """See the module. Ledger and log are this model's alone."""

    def __init__(
        self,
        model: str,
        section: RouterSection,
        prefixes: PrefixLookup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = DecisionLog(model, section.max_explained_requests, section.cost)
        self._section = section
        self._prefixes = prefixes
        self._clock = clock
        self._ledger = Ledger(section, Random())

    def set_replicas(self, replica_to_state: Mapping[ReplicaId, ReplicaState]) -> None:
        """See `Ledger.set_replicas`."""
        self._ledger.set_replicas(replica_to_state)

    def take_report(self, replica_id: ReplicaId, report: LoadReport) -> None:
        """A replica tells its load."""
        self._ledger.take_report(replica_id, report, self._clock())

    def forget_report(self, replica_id: ReplicaId) -> None:
        """The link to it has changed: what it last told holds no more."""
        self._ledger.forget_report(replica_id)

    def has_room(self, call: Call) -> bool:
        """Some replica's KV cache can hold the call at this moment, or may, as where it is
        not known how much of the prompt is cached there; see `Ledger.has_room`."""
        request, now_s = self._request(call, {}), self._clock()
        if self._ledger.has_room(request, {}, now_s):
            return True
        found = self._look_up(call)
        return found is None or self._ledger.has_room(request, found.usable, now_s)

    @contextmanager
    def reserve(self, call: Call) -> Iterator[RoutedCall]:
        """Decide where the call goes, and charge its replica until the block is left.

        Raises NoReplicaError where no replica may be chosen.
        """
        needs_index = self._section.policy in FALLBACKS
        found = self._look_up(call) if needs_index else None
        prefixes = found.usable if found else None if needs_index else {}
        request = self._request(call, prefixes)
        with self._ledger.reserve(request, prefixes, self._clock()) as reservation:
            if found:
                found.expect(reservation.decision.replica_id)
            decided = self.log.add(call.request_id, reservation.decision)
            try:
                yield RoutedCall(call, reservation, self.log, decided)
            finally:
                decided.has_ended = True

    def check_invariants(self) -> None:
        """Those of the ledger and the log."""
        self._ledger.check_invariants()
        self.log.check_invariants()

    def _look_up(self, call: Call) -> FoundPrefixes | None:
        return self._prefixes.look_up(call.read_token_ids, call.adapter, call.cache_salt)

    def _request(self, call: Call, prefixes: Prefixes | None) -> RoutedRequest:
        is_hashed = prefixes is None or self._section.policy == "consistent_hash"
        num_sequences = 0 if call.pooling is not None else call.sampling.n
        expected = self._section.cost.expected_output_tokens
        max_tokens = call.sampling.max_tokens
        if max_tokens is not None:
            expected = min(max_tokens, expected)
        return RoutedRequest(
            num_prompt_tokens=len(call.read_token_ids),
            num_sequences=num_sequences,
            num_expected_tokens=num_sequences * expected,
            adapter=call.adapter,
            session=call.session,
            hash_keys=self._hash_keys(call) if is_hashed else None,
        )

    def _hash_keys(self, call: Call) -> HashKeys:
        return hash_keys(
            call.read_token_ids,
            self._section.hash_prefix_tokens,
            salt=f"{call.adapter or ''}\0{call.cache_salt or ''}",
            session=call.session,
        )
