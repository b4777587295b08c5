"""Experts computed in the engine's own process, while no expert host has them.

Their weights are read from the checkpoint when they are needed and kept in a few slots,
so that a host's end costs neither requests nor the memory of a whole model. A layer that
needs more experts than there are slots is computed in parts.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.experts.kernel import PairRequest
from deployments.experts.kernel_choice import HostExperts, build_experts
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import Dtype, ExpertStrips

NUM_SLOTS = 32
"""At most; with experts of 50 MB they are 1.6 GB."""


class _Flat(NamedTuple):
    """The checkpoint as one layer, with all layers' experts one after the other."""

    checkpoint: CheckpointReader

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        """See `ExpertReader`."""
        assert layer == 0
        return self.checkpoint.expert(*divmod(expert, self.checkpoint.config.shape.num_experts))


class LocalExperts:
    """Takes its memory at the first call. Not for several threads at once."""

    def __init__(self, checkpoint: CheckpointReader, dtype: Dtype) -> None:
        self._reader = _Flat(checkpoint)
        self._dtype = dtype
        shape = checkpoint.config.shape
        self._num_experts = shape.num_experts
        total = shape.num_layers * shape.num_experts
        self._shape = replace(shape, num_layers=1, num_experts=total)
        self._num_slots = min(NUM_SLOTS, total)
        self._experts: HostExperts | None = None
        self._slot_of: OrderedDict[int, int] = OrderedDict()
        """Of each expert that has one; the one used longest ago comes first."""

    def compute(
        self,
        layer: int,
        rows: NDArray[Any],
        pair_to_row: NDArray[np.int32],
        experts: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """A row for each pair. Shapes: [num_rows, hidden_size], [num_pairs] of both."""
        results = np.empty((len(experts), rows.shape[1]), np.float32)
        wanted = np.unique(experts)
        for start in range(0, len(wanted), self._num_slots):
            some = wanted[start : start + self._num_slots]
            slots = np.zeros(self._num_experts, np.int32)
            slots[some] = self._slots_for(layer * self._num_experts + some)
            pairs = np.flatnonzero(np.isin(experts, some))
            request = PairRequest(rows, pair_to_row[pairs], slots[experts[pairs]])
            assert self._experts is not None
            results[pairs] = self._experts.kernel.compute(0, [request])[0]
        return results

    def check_invariants(self) -> None:
        """Raises AssertionError where a slot does not hold what is said of it."""
        assert len(set(self._slot_of.values())) == len(self._slot_of) <= self._num_slots
        if self._experts is not None:
            self._experts.slots.check_invariants()
            for expert, slot in self._slot_of.items():
                assert self._experts.slots.held[0, slot] == expert

    def _slots_for(self, wanted: NDArray[Any]) -> list[int]:
        """Where these are, all at once; reads those that are not there."""
        if self._experts is None:
            self._experts = build_experts(self._shape, self._num_slots, self._dtype)
        known = [expert for expert in wanted.tolist() if expert in self._slot_of]
        for expert in known:
            self._slot_of.move_to_end(expert)
        for expert in wanted.tolist():
            if expert not in self._slot_of:
                self._slot_of[expert] = self._read(expert, self._experts)
        return [self._slot_of[expert] for expert in wanted.tolist()]

    def _read(self, expert: int, experts: HostExperts) -> int:
        slot = len(self._slot_of)
        if slot == self._num_slots:
            _, slot = self._slot_of.popitem(last=False)
        experts.slots.fill(0, slot, expert, self._reader)
        return slot
