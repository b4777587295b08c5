"""What each replica has been charged with: reservations, made at decision time.

Choosing first and charging later would send a burst of requests to the one
replica that looked idle; so `reserve` decides and charges in one step.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.pick import pick
from router.types import DECODE_LOAD_TOKENS, Candidate, Decision, ReplicaId


@dataclass(eq=False)
class Reservation:
    """Load of one request on the replica of its decision."""

    decision: Decision
    num_prompt_tokens: int
    num_outputs: int
    is_prefilled: bool = False

    @property
    def load_tokens(self) -> int:
        """Tokens charged: the prompt until it is prefilled, and the outputs."""
        prefill = 0 if self.is_prefilled else self.num_prompt_tokens
        return prefill + self.num_outputs * DECODE_LOAD_TOKENS

    def on_first_output(self) -> None:
        """The prompt is prefilled: what is left is decoding."""
        self.is_prefilled = True


class Ledger:
    """Reservations of all requests that this gateway has under way."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._num_chosen: dict[ReplicaId, int] = {}
        self._open: dict[ReplicaId, list[Reservation]] = {}

    def set_replicas(self, replica_ids: Collection[ReplicaId]) -> None:
        """These may be chosen from here on. A newcomer starts level with the least used."""
        floor = min(self._num_chosen.values(), default=0)
        self._num_chosen = {r: self._num_chosen.get(r, floor) for r in replica_ids}

    def candidates(self) -> list[Candidate]:
        """All replicas that may be chosen, with their present load."""
        return [
            Candidate(r, self._load_tokens(r), chosen) for r, chosen in self._num_chosen.items()
        ]

    @contextmanager
    def reserve(self, num_prompt_tokens: int, num_outputs: int) -> Iterator[Reservation]:
        """Decide, charge, and give back at the end of the block.

        Raises NoReplicaError where no replica may be chosen.
        """
        decision = pick(self.candidates(), self._policy)
        self._num_chosen[decision.replica_id] += 1
        reservation = Reservation(decision, num_prompt_tokens, num_outputs)
        held = self._open.setdefault(decision.replica_id, [])
        held.append(reservation)
        try:
            yield reservation
        finally:
            held.remove(reservation)
            if not held:
                del self._open[decision.replica_id]

    def check_invariants(self) -> None:
        """No empty lists are kept; each reservation lies with its replica."""
        for replica_id, held in self._open.items():
            assert held
            assert all(r.decision.replica_id == replica_id for r in held)

    def _load_tokens(self, replica_id: ReplicaId) -> int:
        return sum(r.load_tokens for r in self._open.get(replica_id, ()))
