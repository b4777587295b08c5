"""The requests of a host: taken from all links, computed layer by layer, answered."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.experts.kernel import ExpertKernel, PairRequest, Results
from deployments.experts.rows import write_rows
from deployments.experts.weights import StaleSlotError
from experts.host.link_keeper import LinkKeeper
from experts.host.request_check import (
    HostLimits,
    answer_to,
    answer_to_unreadable,
    fault_of,
)
from experts.host.slot_book import SlotBook
from experts.host.work_counts import WorkCounts
from experts.transport.errors import BadFrameError
from experts.transport.link import Link
from experts.transport.messages import (
    AnswerHeader,
    RequestHeader,
    Status,
    read_request_header,
    request_pairs,
    request_rows,
    seal,
    write_answer,
)
from router.dispatch.cost_model import CostModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """A request whose slots hold what it was told. Its rows are still in the frame."""

    link: Link
    header: RequestHeader
    pairs: PairRequest
    experts: NDArray[np.int16]  # [num_pairs]
    arrived_s: float


class WorkDesk:
    """Takes at most one request of each link in a turn, and answers all of them."""

    def __init__(
        self,
        kernel: ExpertKernel,
        book: SlotBook,
        limits: HostLimits,
        keeper: LinkKeeper,
        counts: WorkCounts,
        costs: CostModel,
    ) -> None:
        """`costs` knows this host alone."""
        self._kernel = kernel
        self._book = book
        self._limits = limits
        self._keeper = keeper
        self._counts = counts
        self._costs = costs
        self._works: list[Work] = []

    def take(self, link: Link, frame: memoryview, arrived_s: float) -> None:
        """A request, whose frame stays until it is computed; or answer what is none.

        Raises BadFrameError where nobody can be answered.
        """
        try:
            header = read_request_header(frame)
        except BadFrameError as error:
            answer = answer_to_unreadable(frame, self._limits)
            if answer is None:
                raise
            self._refuse(link, answer, str(error))
            return
        fault = fault_of(header, self._limits, link.max_frame_bytes)
        if fault is not None:
            self._refuse(link, answer_to(header, Status.BAD_REQUEST), fault)
            return
        if not header.num_pairs:
            self._answer(link, answer_to(header))
            return
        slots, pair_rows = request_pairs(frame, header)
        try:
            experts = self._book.experts_of(header.layer, slots, header.map_version)
        except IndexError as error:
            self._refuse(link, answer_to(header, Status.BAD_REQUEST), str(error))
            return
        if experts is None:
            self._answer(link, answer_to(header, Status.OTHER_MAP))
            return
        pairs = PairRequest(request_rows(frame, header), pair_rows, slots, experts)
        self._works.append(Work(link, header, pairs, experts, arrived_s))

    def serve(self) -> None:
        """Compute and answer what was taken: those of a layer by one call, the least first,
        so that few tokens do not wait for many."""
        works, self._works = self._works, []
        for batch in _batches(works):
            self._compute(batch)

    def check_invariants(self) -> None:
        """Raises AssertionError where a link has two requests in a turn."""
        links = [work.link for work in self._works]
        assert len(set(links)) == len(links)

    def _compute(self, works: list[Work]) -> None:
        began_s = time.monotonic()
        layer = works[0].header.layer
        try:
            results = self._kernel.compute(layer, [work.pairs for work in works])
        except StaleSlotError:
            self._compute_apart(works, began_s)
            return
        except Exception:  # ours or the kernel's: the engine has other hosts to ask
            log.exception("%d requests of layer %d have failed", len(works), layer)
            self._fail(works, Status.FAILED, began_s)
            return
        compute_s = time.monotonic() - began_s
        for work, result in zip(works, results, strict=True):
            queue_s = began_s - work.arrived_s
            header = answer_to(work.header, Status.OK, compute_s, queue_s)
            self._answer(work.link, header, result)
        self._count(layer, works, compute_s)

    def _compute_apart(self, works: list[Work], began_s: float) -> None:
        if len(works) == 1:
            self._fail(works, Status.OTHER_MAP, began_s)
            return
        for work in works:
            self._compute([work])

    def _fail(self, works: list[Work], status: Status, began_s: float) -> None:
        for work in works:
            header = answer_to(work.header, status, queue_s=began_s - work.arrived_s)
            self._answer(work.link, header)

    def _count(self, layer: int, works: list[Work], compute_s: float) -> None:
        self._counts.called(compute_s)
        num_experts = sum(self._counts.computed(layer, work.experts) for work in works)
        if len(works) > 1:
            num_experts = len(np.unique(np.concatenate([work.experts for work in works])))
        num_pairs = sum(work.header.num_pairs for work in works)
        self._costs.observe(0, num_experts, num_pairs, compute_s)

    def _refuse(self, link: Link, header: AnswerHeader, why: str) -> None:
        log.warning("bad request %d of %s: %s", header.sequence, link.peer, why)
        self._answer(link, header)

    def _answer(self, link: Link, header: AnswerHeader, results: Results | None = None) -> None:
        """Give the request's room back first: a peer may wait for it before it reads."""
        self._counts.answered(header.queue_s)
        if self._keeper.is_gone(link):
            return
        link.release()
        frame = self._keeper.room(link, header.num_bytes)
        if frame is None:
            return
        rows = write_answer(frame, header)
        if results is not None:
            write_rows(results, rows)
        seal(frame)
        self._keeper.commit(link)


def _batches(works: Iterable[Work]) -> list[list[Work]]:
    """Those of each layer; the fewest pairs first."""
    layer_to_works: dict[int, list[Work]] = {}
    for work in works:
        layer_to_works.setdefault(work.header.layer, []).append(work)
    return sorted(layer_to_works.values(), key=_num_pairs)


def _num_pairs(works: list[Work]) -> int:
    return sum(work.header.num_pairs for work in works)
