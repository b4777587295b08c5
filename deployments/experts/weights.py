"""The slots of an expert host: what each holds, and when it may be used.

Storage for all slots is taken at the start, so a host's memory does not grow. `fill`
reads an expert from the checkpoint into a slot while other threads compute with other
slots; the order of events makes that safe:

| moment              | `held[layer, slot]` | the slot's weights            |
|---------------------|---------------------|-------------------------------|
| before              | the old expert      | the old expert's              |
| `fill` begins       | EMPTY_SLOT          | used by nobody: `fill` waits  |
|                     |                     | for computing that uses any   |
| it reads and packs  | EMPTY_SLOT          | half of each, used by nobody  |
| it ends             | the new expert      | the new expert's              |
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experts.checkpoint.types import ExpertStrips
from experts.types import EMPTY_SLOT, ModelShape
from infra.errors import CoterieError

_ALIGNMENT = 32


class StaleSlotError(CoterieError):
    """A slot does not hold the expert that it was asked for: the asker's expert map is
    not this host's."""

    kind = "stale_slot"


class ExpertReader(Protocol):
    """Where experts come from."""

    def expert(self, layer: int, expert: int) -> ExpertStrips:
        """Views of the weights; reading them is what costs."""
        ...


class Storage(Protocol):
    """The weights of all slots, in the form that a kernel computes with."""

    @property
    def bytes_per_slot(self) -> int:
        """Memory that one slot of one layer takes."""
        ...

    def write(self, layer: int, slot: int, strips: ExpertStrips) -> None:
        """Put an expert into a slot that nobody uses.

        Takes as long as reading the expert and putting it into form; other threads may
        write and use other slots meanwhile.
        """
        ...


class ExpertSlots:
    """The slots of one host, numbered from 0 in each layer."""

    def __init__(self, shape: ModelShape, num_slots: int, storage: Storage) -> None:
        assert num_slots > 0
        self.shape = shape
        self.num_slots = num_slots
        self._storage = storage
        self.held: NDArray[np.int16] = np.full(
            (shape.num_layers, num_slots), EMPTY_SLOT, np.int16
        )
        """The logical expert that each slot holds. Shape: [num_layers, num_slots]."""
        self._changing = np.zeros((shape.num_layers, num_slots), bool)
        self._computing = Lock()

    def fill(self, layer: int, slot: int, expert: int, reader: ExpertReader) -> None:
        """Put an expert into a slot; no other thread may change the same slot meanwhile.

        The slot is empty from the beginning to the end, and stays so where reading fails.
        Waits for at most one computing thread, and holds up none.
        """
        assert 0 <= expert < self.shape.num_experts
        self.clear(layer, slot)
        assert not self._changing[layer, slot]
        self._changing[layer, slot] = True
        try:
            self._storage.write(layer, slot, reader.expert(layer, expert))
            self.held[layer, slot] = expert
        finally:
            self._changing[layer, slot] = False

    def clear(self, layer: int, slot: int) -> None:
        """Let go of what a slot holds; when this returns nobody computes with it."""
        with self._computing:
            self.held[layer, slot] = EMPTY_SLOT

    @contextmanager
    def in_use(
        self, layer: int, slots: NDArray[np.int32], experts: NDArray[np.int16] | None = None
    ) -> Iterator[None]:
        """While the block runs these slots keep what they hold; one block at a time.

        `experts` are those that the slots are thought to hold; EMPTY_SLOT is any. Shapes:
        [num_pairs]. Raises StaleSlotError where one holds another, or nothing.
        """
        with self._computing:
            self._check(layer, slots, experts)
            yield

    def _check(
        self, layer: int, slots: NDArray[np.int32], experts: NDArray[np.int16] | None
    ) -> None:
        try:
            # Unsigned, a negative slot is too great instead of one from the end.
            held = self.held[layer][slots.view(np.uint32)]
        except IndexError:
            raise StaleSlotError(f"there are slots 0 to {self.num_slots - 1}") from None
        if len(held) and held.min() == EMPTY_SLOT:
            empty = slots[held == EMPTY_SLOT][0]
            raise StaleSlotError(f"slot {empty} of layer {layer} holds no expert")
        if experts is None:
            return
        is_other = (held != experts) & (experts != EMPTY_SLOT)
        if is_other.any():
            i = int(is_other.argmax())
            raise StaleSlotError(
                f"slot {slots[i]} of layer {layer} holds expert {held[i]}, not {experts[i]}"
            )

    def check_invariants(self) -> None:
        """Raises AssertionError where what is held contradicts itself."""
        assert self.held.shape == (self.shape.num_layers, self.num_slots)
        assert ((self.held >= EMPTY_SLOT) & (self.held < self.shape.num_experts)).all()
        assert (self.held[self._changing] == EMPTY_SLOT).all()


def rounded_size(size: int) -> int:
    """A hidden or intermediate size with the zeros that the kernels ask for."""
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
