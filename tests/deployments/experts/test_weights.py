"""Slots change while other slots compute. The storage is a dict; no torch."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.experts.weights import ExpertSlots, StaleSlotError
from experts.checkpoint.types import ExpertStrips
from experts.types import EMPTY_SLOT, ModelShape

SHAPE = ModelShape(num_layers=2, num_experts=3, top_k=1, hidden_size=1, intermediate_size=1)


class Numbers:
    """An `ExpertReader` whose gate is 10 * layer + expert."""

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        number = np.full((1, 1), 10 * layer + expert, np.float32)
        return ExpertStrips(number, number, number, "float32")


@dataclass
class Gates:
    """A `Storage` that keeps the gates; `before_write` is called in `write`."""

    before_write: Callable[[], None] = lambda: None
    place_to_gate: dict[tuple[int, int], float] = field(default_factory=dict)
    bytes_per_slot = 4

    def write(self, layer: int, slot: int, strips: ExpertStrips) -> None:
        self.before_write()
        self.place_to_gate[layer, slot] = float(strips.gate[0, 0])


def slots_of(gates: Gates, num_slots: int = 2) -> ExpertSlots:
    return ExpertSlots(SHAPE, num_slots, gates)


def asked(*slots: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(slots, np.int32)


def test_a_filled_slot_holds_its_expert_in_its_layer_alone() -> None:
    gates = Gates()
    slots = slots_of(gates)
    slots.fill(1, 0, 2, Numbers())
    slots.check_invariants()
    assert slots.held.tolist() == [[EMPTY_SLOT] * 2, [2, EMPTY_SLOT]]
    assert gates.place_to_gate == {(1, 0): 12.0}
    with slots.in_use(1, asked(0, 0)):
        pass
    with (
        pytest.raises(StaleSlotError, match="slot 0 of layer 0 holds no expert"),
        slots.in_use(0, asked(0)),
    ):
        pass


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([EMPTY_SLOT, 0, 1, 2]))
    )
)
def test_slots_hold_what_was_last_put_there(changes: list[tuple[int, int, int]]) -> None:
    slots, twin = slots_of(Gates()), np.full((2, 2), EMPTY_SLOT)
    for layer, slot, expert in changes:
        if expert == EMPTY_SLOT:
            slots.clear(layer, slot)
        else:
            slots.fill(layer, slot, expert, Numbers())
        twin[layer, slot] = expert
        slots.check_invariants()
        assert slots.held.tolist() == twin.tolist()


def test_other_slots_compute_while_one_is_filled() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(10)

    gates = Gates()
    slots = slots_of(gates)
    slots.fill(0, 0, 0, Numbers())
    slots.fill(0, 1, 1, Numbers())
    gates.before_write = wait
    filling = threading.Thread(target=slots.fill, args=(0, 1, 2, Numbers()))
    filling.start()
    try:
        assert begun.wait(10)
        slots.check_invariants()
        with slots.in_use(0, asked(0)):
            pass
        with pytest.raises(StaleSlotError), slots.in_use(0, asked(0, 1)):
            pass
    finally:
        go_on.set()
        filling.join(10)
    with slots.in_use(0, asked(0, 1)):
        assert slots.held[0].tolist() == [0, 2]


def test_a_slot_is_not_written_while_it_computes() -> None:
    gates = Gates()
    slots = slots_of(gates)
    slots.fill(0, 0, 0, Numbers())
    filling = threading.Thread(target=slots.fill, args=(0, 0, 1, Numbers()))
    with slots.in_use(0, asked(0)):
        filling.start()
        filling.join(0.05)
        assert filling.is_alive()
        assert gates.place_to_gate == {(0, 0): 0.0}
        assert slots.held[0, 0] == 0
    filling.join(10)
    assert gates.place_to_gate == {(0, 0): 1.0}


def test_a_slot_whose_expert_cannot_be_read_stays_empty() -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    gates = Gates()
    slots = slots_of(gates)
    slots.fill(0, 0, 0, Numbers())
    gates.before_write = fail
    with pytest.raises(OSError, match="the disk is gone"):
        slots.fill(0, 0, 1, Numbers())
    slots.check_invariants()
    assert slots.held[0, 0] == EMPTY_SLOT


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_there_is_not_is_refused(slot: int) -> None:
    slots = slots_of(Gates())
    with (
        pytest.raises(StaleSlotError, match="there are slots 0 to 1"),
        slots.in_use(0, asked(slot)),
    ):
        pass


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        ([2, 0], None),
        ([EMPTY_SLOT, 0], None),
        ([2, EMPTY_SLOT], None),
        ([2, 1], "slot 0 of layer 1 holds expert 0, not 1"),
        ([0, 2], "slot 1 of layer 1 holds expert 2, not 0"),
    ],
)
def test_a_slot_that_holds_another_expert_is_refused(
    experts: list[int], says: str | None
) -> None:
    slots = slots_of(Gates())
    slots.fill(1, 0, 0, Numbers())
    slots.fill(1, 1, 2, Numbers())
    block = slots.in_use(1, asked(1, 0), np.array(experts, np.int16))
    if says is None:
        with block:
            return
    with pytest.raises(StaleSlotError, match=says), block:
        pass
