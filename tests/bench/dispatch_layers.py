"""Layers with copies, and tokens gated to them, for the bench of dispatch."""

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experts.types import ExpertMap, HostId
from router.dispatch.types import Ints, Seconds

Popularity = Literal["uniform", "zipf"]

COST_S = (100e-6, 20e-6, 1e-6)
"""Of a parcel, an expert, a pair: about an expert of 1 MB of weights in memory."""


def drawn(
    chances: NDArray[np.float64], num_tokens: int, top_k: int, rng: np.random.Generator
) -> Ints:
    """Experts of each token, drawn without replacement. Shape: [num_tokens, top_k]."""
    keys = np.log(chances) + rng.gumbel(size=(num_tokens, len(chances)))
    return np.ascontiguousarray(np.argsort(-keys, axis=1)[:, :top_k], np.int32)


@dataclass(frozen=True)
class Setting:
    """A layer, and who asks for what."""

    num_experts: int
    top_k: int
    num_hosts: int
    copies: float
    """Slots in relation to experts."""
    popularity: Popularity = "uniform"

    @property
    def chances(self) -> NDArray[np.float64]:
        """Of each expert to be chosen first. Shape: [num_experts]."""
        ranks = np.random.default_rng(7).permutation(self.num_experts) + 1
        weights = 1.0 / ranks if self.popularity == "zipf" else np.ones(self.num_experts)
        return np.asarray(weights / weights.sum())

    @cached_property
    def expert_map(self) -> ExpertMap:
        """The copies follow popularity, as EPLB's do: one more for whichever expert's
        copies are asked most; then most asked first to the host asked least."""
        slots_per_host = -(-round(self.num_experts * self.copies) // self.num_hosts)
        num_copies = self._num_copies(slots_per_host * self.num_hosts)
        hosts = self._pack(num_copies, slots_per_host)
        held = np.array([sorted(host) for host in hosts], np.int16)
        return ExpertMap(
            version=1,
            num_experts=self.num_experts,
            hosts=tuple(HostId(f"h{i}") for i in range(self.num_hosts)),
            host_to_first_slot=np.arange(self.num_hosts + 1, dtype=np.int32) * slots_per_host,
            physical_to_logical=held.reshape(1, -1),
        )

    @property
    def costs(self) -> Seconds:
        """All hosts alike. Shape: [num_hosts, 3]."""
        return np.tile(COST_S, (self.num_hosts, 1))

    def topk_ids(self, num_tokens: int, seed: int) -> Ints:
        """Drawn without replacement for each token. Shape: [num_tokens, top_k]."""
        rng = np.random.default_rng(seed)
        return drawn(self.chances, num_tokens, self.top_k, rng)

    def _num_copies(self, num_slots: int) -> list[int]:
        num_copies = np.ones(self.num_experts, np.int64)
        for _ in range(num_slots - self.num_experts):
            asked = np.where(num_copies < self.num_hosts, self.chances / num_copies, -1.0)
            num_copies[np.argmax(asked)] += 1
        return num_copies.tolist()

    def _pack(self, num_copies: list[int], slots_per_host: int) -> list[list[int]]:
        hosts: list[list[int]] = [[] for _ in range(self.num_hosts)]
        asked = [0.0] * self.num_hosts
        each = self.chances / num_copies
        rng = random.Random(7)
        # Those with many copies first, or no host without one may be left for them.
        order = sorted(range(self.num_experts), key=lambda e: (-num_copies[e], -each[e]))
        for expert in order:
            for _ in range(num_copies[expert]):
                host = min(
                    range(self.num_hosts),
                    key=lambda h: (
                        len(hosts[h]) >= slots_per_host,
                        expert in hosts[h],
                        asked[h],
                        # Else the same two hosts would share all that they have.
                        rng.random(),
                    ),
                )
                hosts[host].append(expert)
                asked[host] += each[expert]
        return hosts
