"""Which data-parallel rank of this replica takes a call: the router's decision once more.

The gateway has chosen the replica, and says how much of the prompt each rank has cached
(`Call.rank_prefixes`). All calls of the replica come by here, so their load is known.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from deployments.types import Call, Delta
from router.ledger import Ledger, Reservation
from router.settings import RouterSection
from router.types import ReplicaId, RoutedRequest, UsablePrefix


class RankedCall:
    """A call that a rank is charged with; it hears of the call's deltas."""

    def __init__(self, reservation: Reservation) -> None:
        self.dp_rank = int(reservation.decision.replica_id)
        self._on_output = reservation.on_output

    def saw(self, delta: Delta) -> None:
        """One delta has come."""
        is_finished = delta.finish_reason is not None
        self._on_output(delta.index, len(delta.token_ids), is_finished=is_finished)


class DpRanks:
    """A ledger whose replicas are the ranks. Belongs to one event loop."""

    def __init__(self, num_ranks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ledger = Ledger(RouterSection(), Random())
        self._ledger.set_replicas({_id_of(rank): "ready" for rank in range(num_ranks)})

    @contextmanager
    def reserve(self, call: Call) -> Iterator[RankedCall]:
        """Choose a rank, and charge it until the block is left."""
        request = RoutedRequest(
            num_prompt_tokens=len(call.read_token_ids),
            num_sequences=0 if call.pooling is not None else call.sampling.n,
        )
        prefixes = {_id_of(r): UsablePrefix(n) for r, n in call.rank_prefixes.items()}
        with self._ledger.reserve(request, prefixes, self._clock()) as reservation:
            yield RankedCall(reservation)

    def check_invariants(self) -> None:
        """Those of the ledger."""
        self._ledger.check_invariants()


def _id_of(dp_rank: int) -> ReplicaId:
    return ReplicaId(str(dp_rank))
