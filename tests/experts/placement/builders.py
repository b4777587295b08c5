"""Hosts, loads and maps of tiny models."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from experts.placement.hosts import HostSpec
from experts.placement.load import Load
from experts.types import EMPTY_SLOT, ExpertMap, HostId


def host(name: str, num_slots: int = 2, is_leaving: bool = False, slow: float = 1) -> HostSpec:
    """A host that takes a second for an activation and nothing for a token."""
    return HostSpec(HostId(name), num_slots, slow, 0.0, is_leaving)


def hosts(*sizes: int) -> list[HostSpec]:
    return [host("abcdefghijkl"[i], size) for i, size in enumerate(sizes)]


def load(*rows: Sequence[float]) -> Load:
    """Activations a second of each layer's experts, and twice as many tokens."""
    activations = np.array(rows, np.float64)
    return Load(2 * activations, activations)


def expert_map(specs: Sequence[HostSpec], *rows: Sequence[int], version: int = 1) -> ExpertMap:
    """One row for each layer; with as many experts as the greatest number in them."""
    return ExpertMap(
        version=version,
        num_experts=max(max(row) for row in rows) + 1,
        hosts=tuple(spec.host for spec in specs),
        host_to_first_slot=np.cumsum([0, *(spec.num_slots for spec in specs)], dtype=np.int32),
        physical_to_logical=np.array(rows, np.int16),
    )


RATES = st.integers(0, 4).map(float)


@st.composite
def loads(draw: st.DrawFn, num_layers: int, num_experts: int) -> Load:
    """Loads of few values, many of them alike."""
    row = st.lists(RATES, min_size=num_experts, max_size=num_experts)
    return load(*draw(st.lists(row, min_size=num_layers, max_size=num_layers)))


@st.composite
def host_lists(draw: st.DrawFn, names: str = "abc") -> list[HostSpec]:
    """A few hosts, of different speed and size; none of them may be leaving."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    return [
        host(
            name,
            num_slots=draw(st.integers(0, 4)),
            is_leaving=draw(st.booleans()),
            slow=draw(st.sampled_from([1, 2])),
        )
        for name in sorted(chosen)
    ]


@st.composite
def maps(
    draw: st.DrawFn, specs: Sequence[HostSpec], num_layers: int, num_experts: int
) -> ExpertMap:
    """Anything, experts without a copy and with two on one host among it."""
    num_slots = sum(spec.num_slots for spec in specs)
    expert = st.integers(EMPTY_SLOT, num_experts - 1)
    row = st.lists(expert, min_size=num_slots, max_size=num_slots)
    rows = draw(st.lists(row, min_size=num_layers, max_size=num_layers))
    return ExpertMap(
        version=draw(st.integers(0, 5)),
        num_experts=num_experts,
        hosts=tuple(spec.host for spec in specs),
        host_to_first_slot=np.cumsum([0, *(spec.num_slots for spec in specs)], dtype=np.int32),
        physical_to_logical=np.array(rows, np.int16).reshape(num_layers, num_slots),
    )
