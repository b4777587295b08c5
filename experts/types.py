"""The nouns of the expert tier.

A *layer* is counted among the model's mixture-of-experts layers, from 0. The gate of a
layer names *logical experts*; an *expert host* has *slots*, and a slot holds one *copy*:
the weights of one logical expert of one layer. Slots are numbered through all hosts,
layer by layer alike; these numbers are the *physical experts*.

Worked example: 1 layer, 3 logical experts, 2 hosts of 2 slots each. Slots 0 and 1 are
host a's, 2 and 3 host b's. `physical_to_logical` [[0, 1, 2, 0]] says that expert 0 has a
copy on both hosts; a step whose tokens chose experts 0 and 2 can be computed by b alone.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

HostId = NewType("HostId", str)
"""One life of an expert host's process: never used again."""

EMPTY_SLOT = -1
"""In `physical_to_logical`: the slot holds nothing that may be used."""


@dataclass(frozen=True)
class ModelShape:
    """What there is to place of a model."""

    num_layers: int
    """Layers with routed experts."""
    num_experts: int
    """Logical experts of each of them."""
    top_k: int
    """Experts that the gate chooses for a token."""
    hidden_size: int
    intermediate_size: int
    """Of one routed expert."""

    @property
    def weights_per_expert(self) -> int:
        """Numbers in the gate, up and down projections of one expert."""
        return 3 * self.hidden_size * self.intermediate_size


@dataclass(frozen=True, eq=False)
class ExpertMap:
    """Where the copies of all experts are, at one version. Never changed.

    `host_to_first_slot[h] <= slot < host_to_first_slot[h + 1]` are the slots of host h.
    A greater version is newer; versions of one model are given out by one place.
    """

    version: int
    num_experts: int
    hosts: tuple[HostId, ...]
    host_to_first_slot: NDArray[np.int32]  # [num_hosts + 1]
    physical_to_logical: NDArray[np.int16]  # [num_layers, num_slots]

    @property
    def num_layers(self) -> int:
        """Mixture-of-experts layers."""
        return int(self.physical_to_logical.shape[0])

    @property
    def num_slots(self) -> int:
        """Slots of all hosts, in each layer."""
        return int(self.physical_to_logical.shape[1])

    @cached_property
    def slot_to_host(self) -> NDArray[np.int32]:
        """Index in `hosts`. Shape: [num_slots]."""
        sizes = np.diff(self.host_to_first_slot)
        return np.repeat(np.arange(len(self.hosts), dtype=np.int32), sizes)

    @cached_property
    def num_copies(self) -> NDArray[np.int32]:
        """Shape: [num_layers, num_experts]."""
        counts = np.zeros((self.num_layers, self.num_experts), np.int32)
        layers, slots = np.nonzero(self.physical_to_logical != EMPTY_SLOT)
        np.add.at(counts, (layers, self.physical_to_logical[layers, slots]), 1)
        return counts

    @cached_property
    def logical_to_physical(self) -> tuple["Copies", ...]:
        """For each layer the slots of each expert."""
        return tuple(
            Copies.of(row, self.num_experts) for row in np.asarray(self.physical_to_logical)
        )

    @property
    def is_covering(self) -> bool:
        """Whether each expert of each layer has a copy."""
        return bool((self.num_copies > 0).all())

    def check_invariants(self) -> None:
        """Raises AssertionError where the arrays contradict each other."""
        first = self.host_to_first_slot
        assert len(first) == len(self.hosts) + 1
        assert len(set(self.hosts)) == len(self.hosts)
        assert first[0] == 0
        assert (np.diff(first) >= 0).all()
        assert first[-1] == self.num_slots
        held = self.physical_to_logical
        assert held.dtype == np.int16
        assert ((held >= EMPTY_SLOT) & (held < self.num_experts)).all()
        for layer, copies in enumerate(self.logical_to_physical):
            assert len(copies.slots) == (held[layer] != EMPTY_SLOT).sum()
            for expert in range(self.num_experts):
                assert (held[layer, copies.of_expert(expert)] == expert).all()

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, ExpertMap) and (
            (self.version, self.num_experts, self.hosts)
            == (other.version, other.num_experts, other.hosts)
            and np.array_equal(self.host_to_first_slot, other.host_to_first_slot)
            and np.array_equal(self.physical_to_logical, other.physical_to_logical)
        )

    def __hash__(self) -> int:
        return hash((self.version, self.hosts))


@dataclass(frozen=True, eq=False)
class Copies:
    """The slots of each expert of one layer, in ascending order.

    `slots[expert_to_first[e] : expert_to_first[e + 1]]` are those of expert e.
    """

    expert_to_first: NDArray[np.int32]  # [num_experts + 1]
    slots: NDArray[np.int32]  # [num_copies of all experts]

    @classmethod
    def of(cls, held: NDArray[np.int16], num_experts: int) -> "Copies":
        """From a layer's row of `physical_to_logical`. Shape: [num_slots]."""
        filled = np.flatnonzero(held != EMPTY_SLOT)
        by_expert = filled[np.argsort(held[filled], kind="stable")]
        bounds = np.searchsorted(held[by_expert], np.arange(num_experts + 1))
        return cls(bounds.astype(np.int32), by_expert.astype(np.int32))

    def of_expert(self, expert: int) -> NDArray[np.int32]:
        """The slots of one expert. Shape: [num_copies]."""
        return self.slots[self.expert_to_first[expert] : self.expert_to_first[expert + 1]]
