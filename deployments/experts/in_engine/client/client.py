"""Has one layer after the other computed by the expert hosts, whatever becomes of them.

    begin    plan which copy computes each pair; send each host its parcel
    finish   compute what no host can; read the answers as they come, and plan anew what was
             asked of a host that is lost, late, or says that it cannot

A pair's result does not depend on where or with what else it is computed, so a pair may be
asked twice; what counts is that each is answered once. A host is late when nothing has
come from it for `late_s` and eight times what its requests were predicted to take.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.experts.in_engine.client.answer_rows import put_rows
from deployments.experts.in_engine.client.board import Board, KnownTier
from deployments.experts.in_engine.client.chunks import chunks, max_pairs
from deployments.experts.in_engine.client.line import Answer, Ask, Line
from deployments.experts.in_engine.client.lines import Lines
from experts.transport.errors import TransportError
from experts.transport.messages import RowType, Status
from experts.types import HostId
from router.dispatch.cost_model import CostModel
from router.dispatch.planner import Planner
from router.dispatch.settings import DispatchSection
from router.dispatch.types import NO_COPY, DispatchPlan, Ints, Seconds, host_seconds

log = logging.getLogger(__name__)

_LATE_FACTOR = 8.0


class LocalExperts(Protocol):
    """Computes in the engine's own process what no host can."""

    def compute(
        self, layer: int, rows: NDArray[Any], pair_to_row: Ints, experts: Ints
    ) -> NDArray[np.float32]:
        """A row for each pair. Shapes: [num_rows, hidden_size], [num_pairs] of both."""


@dataclass(eq=False)
class _Call:
    """One layer of one step."""

    ask: Ask
    topk_ids: Ints  # [num_tokens, top_k]
    results: NDArray[np.float32]  # [num_pairs, hidden_size]
    plans: list[DispatchPlan]
    """The latest last; each of the others was made before some host failed."""
    is_done: NDArray[np.bool_] | None = None  # [num_pairs], computed locally
    failed: set[HostId] = field(default_factory=set)
    """Asked nothing more for this layer."""
    must_move: bool = False
    """Some pairs are with hosts that will not answer."""


class TierClient:
    """Not for several threads at once."""

    def __init__(
        self,
        board: Board,
        lines: Lines,
        local: LocalExperts,
        section: DispatchSection,
        row_type: RowType,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._lines = lines
        self._local = local
        self._section = section
        self._row_type = row_type
        self._clock = clock
        self._costs = CostModel(section)
        self._known: KnownTier | None = None
        self._planner: Planner | None = None
        self._no_work: Seconds = np.empty(0)
        self._call: _Call | None = None
        self.stats = lines.stats

    def begin(self, layer: int, rows: NDArray[Any], topk_ids: Ints) -> None:
        """Ask for the results of all pairs; the arrays stay as they are until `finish`.

        Shapes: [num_tokens, hidden_size], [num_tokens, top_k].
        """
        assert self._call is None, "one layer after the other"
        self._adopt(self._board.take())
        start_s = self._clock()
        call = self._planned(layer, rows, topk_ids)
        planned_s = self._clock()
        self._call = call
        self._send(call)
        self.stats.num_layers += 1
        self.stats.num_tokens += len(rows)
        self.stats.num_pairs += topk_ids.size
        self.stats.plan_s += planned_s - start_s
        self.stats.send_s += self._clock() - planned_s

    def finish(self) -> NDArray[np.float32]:
        """The result of each pair, not yet weighted. Shape: [num_pairs, hidden_size]."""
        call = self._call
        assert call is not None, "begin first"
        self._compute_what_no_host_can(call)
        start_s = self._clock()
        while self._is_waiting(call):
            self._read(call)
            self._leave_late(call)
            if call.must_move:
                self._move(call)
        self.stats.wait_s += self._clock() - start_s
        self._call = None
        self._board.put_back()
        return call.results

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself."""
        self._lines.check_invariants()
        self._costs.check_invariants()
        if self._planner is not None:
            self._planner.check_invariants()

    def _adopt(self, known: KnownTier) -> None:
        if known is self._known:
            return
        self._known = known
        self._lines.know(known)
        self._costs.set_hosts(known.map.hosts)
        self._planner = Planner(known.map, self._section.policy)
        self._no_work = np.zeros(len(known.map.hosts))

    def _planned(self, layer: int, rows: NDArray[Any], topk_ids: Ints) -> _Call:
        assert self._planner is not None
        self._planner.set_live(self._lines.live())
        plan = self._planner.plan(layer, topk_ids, self._costs.costs(), self._no_work)
        return _Call(
            ask=Ask(layer, rows, self._row_type, self._section.checksums),
            topk_ids=topk_ids,
            results=np.empty((topk_ids.size, rows.shape[1]), np.float32),
            plans=[plan],
        )

    def _send(self, call: _Call) -> None:
        hosts, now_s = self._now(), self._clock()
        assert self._known is not None
        for number, parcel in call.plans[-1].parcels.items():
            host = hosts[number]
            line = self._lines.of(host)
            assert line is not None, "a plan is made for hosts that may be asked"
            most = max_pairs(line.link.max_frame_bytes, call.ask.rows.shape[1])
            try:
                line.ask(call.ask, self._known.versions[host], chunks(parcel, most), now_s)
            except TransportError as error:
                self._lose(call, line, error)

    def _is_waiting(self, call: _Call) -> bool:
        return call.must_move or any(not line.is_idle for line in self._lines.all)

    def _read(self, call: _Call) -> None:
        """Read the answers that are there; where there is none, wait until one comes, or
        until the first host is late."""
        due_s = 0.0 if call.must_move else self._due_s(call)
        for line in self._lines.wait(max(0.0, due_s - self._clock())):
            try:
                while (answer := line.receive(self._clock())) is not None:
                    self._take(call, line, answer)
                    line.release()
                line.send(self._clock())
            except TransportError as error:
                self._lose(call, line, error)

    def _take(self, call: _Call, line: Line, answer: Answer) -> None:
        parcel, status = answer.sent.parcel, answer.header.status
        if status == Status.OK:
            num_experts = put_rows(answer.rows, parcel.pairs, parcel.pair_slots, call.results)
            seconds = line.trip_s + answer.header.compute_s
            host = self._now().index(line.host)
            self._costs.observe(host, num_experts, len(parcel.pairs), seconds)
            return
        self.stats.num_other_map += status == Status.OTHER_MAP
        self.stats.num_failed += status != Status.OTHER_MAP
        if status != Status.OTHER_MAP:
            log.warning("the expert host %s answers %s", line.host, status.name)
        call.failed.add(line.host)
        call.must_move = True

    def _due_s(self, call: _Call) -> float:
        """When to look for late hosts: not yet exact while none can be late."""
        least_s = min(line.heard_s for line in self._lines.all if not line.is_idle)
        due_s = float(least_s + self._section.late_s)
        return due_s if self._clock() < due_s else min(self._late_at_s(call).values())

    def _late_at_s(self, call: _Call) -> dict[HostId, float]:
        """When each host that is waited for is late."""
        costs, predicted_s = self._costs.costs(), self._no_work.copy()
        for plan in call.plans:
            predicted_s += host_seconds(plan, costs, self._no_work)
        patience_s = self._section.late_s + _LATE_FACTOR * predicted_s
        host_to_s = dict(zip(self._now(), patience_s.tolist(), strict=True))
        return {
            line.host: line.heard_s + host_to_s[line.host]
            for line in self._lines.all
            if not line.is_idle
        }

    def _leave_late(self, call: _Call) -> None:
        """Wait no longer for hosts that are late."""
        now_s, busy = self._clock(), [line for line in self._lines.all if not line.is_idle]
        if all(now_s < line.heard_s + self._section.late_s for line in busy):
            return
        late_at_s = self._late_at_s(call)
        for line in busy:
            if now_s >= late_at_s[line.host]:
                log.warning("the expert host %s is late", line.host)
                line.give_up()
                self.stats.num_late += 1
                call.must_move = True

    def _lose(self, call: _Call, line: Line, why: Exception) -> None:
        self._lines.lose(line, str(why))
        self.stats.num_lost += 1
        call.must_move = True

    def _move(self, call: _Call) -> None:
        """Ask others for what hosts were asked that will not answer."""
        assert self._planner is not None
        call.must_move = False
        hosts = self._now()
        is_well = np.array([host not in call.failed for host in hosts], np.bool_)
        self._planner.set_live(self._lines.live() & is_well)
        before = call.plans[-1]
        after = self._planner.replan(
            before, call.ask.layer, call.topk_ids, self._costs.costs(), self._no_work
        )
        call.plans.append(after)
        self.stats.num_moved_pairs += int((before.slots != after.slots).sum())
        self._send(call)
        self._compute_what_no_host_can(call)

    def _compute_what_no_host_can(self, call: _Call) -> None:
        plan = call.plans[-1]
        if plan.is_whole:
            return
        if call.is_done is None:
            call.is_done = np.zeros(plan.layout.num_pairs, np.bool_)
        pairs = np.flatnonzero((plan.slots.ravel() == NO_COPY) & ~call.is_done)
        if not len(pairs):
            return
        start_s = self._clock()
        rows = (pairs // call.topk_ids.shape[1]).astype(np.int32)
        experts = call.topk_ids.ravel()[pairs]
        call.results[pairs] = self._local.compute(call.ask.layer, call.ask.rows, rows, experts)
        call.is_done[pairs] = True
        self.stats.num_local_pairs += len(pairs)
        self.stats.local_s += self._clock() - start_s

    def _now(self) -> tuple[HostId, ...]:
        """The hosts, by the numbers of plans and costs."""
        assert self._known is not None
        return self._known.map.hosts
