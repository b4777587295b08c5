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

from threading import Lock
from typing import Protocol

import numpy as np
from numba import types
from numpy.typing import NDArray

from experts.checkpoint.types import ExpertStrips
from experts.types import EMPTY_SLOT, ModelShape
from infra.compiled import compiled
from infra.errors import CoterieError

_ALIGNMENT = 32
_ANY = np.empty(0, np.int16)


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

    def in_use(
        self, layer: int, slots: NDArray[np.int32], experts: NDArray[np.int16] | None = None
    ) -> "_InUse":
        """While the block runs these slots keep what they hold; one block at a time.

        `experts` are those that the slots are thought to hold; EMPTY_SLOT is any. Shapes:
        [num_pairs]. Entering raises StaleSlotError where one holds another, or nothing.
        """
        return _InUse(self._computing, self.held, layer, slots, experts)

    def check_invariants(self) -> None:
        """Raises AssertionError where what is held contradicts itself."""
        assert self.held.shape == (self.shape.num_layers, self.num_slots)
        assert ((self.held >= EMPTY_SLOT) & (self.held < self.shape.num_experts)).all()
        assert (self.held[self._changing] == EMPTY_SLOT).all()


class _InUse:
    """See `ExpertSlots.in_use`. A class, as a generator's block takes longer to enter."""

    __slots__ = ("_asked", "_computing", "_held", "_layer", "_slots")

    def __init__(
        self,
        computing: Lock,
        held: NDArray[np.int16],
        layer: int,
        slots: NDArray[np.int32],
        experts: NDArray[np.int16] | None,
    ) -> None:
        self._computing = computing
        self._held = held[layer]
        self._layer = layer
        self._slots = slots
        self._asked = _ANY if experts is None else experts

    def __enter__(self) -> None:
        self._computing.acquire()
        pair = _first_stale(self._held, self._slots, self._asked)
        if pair >= 0:
            error = self._error(pair)
            self._computing.release()
            raise error

    def __exit__(self, *_: object) -> None:
        self._computing.release()

    def _error(self, pair: int) -> StaleSlotError:
        slot = int(self._slots[pair])
        if not 0 <= slot < len(self._held):
            return StaleSlotError(f"there are slots 0 to {len(self._held) - 1}")
        where, held = f"slot {slot} of layer {self._layer}", self._held[slot]
        if held == EMPTY_SLOT or not len(self._asked):
            return StaleSlotError(f"{where} holds no expert")
        return StaleSlotError(f"{where} holds expert {held}, not {self._asked[pair]}")


@compiled(
    types.int64(
        types.Array(types.int16, 1, "C", readonly=True),
        types.Array(types.int32, 1, "C", readonly=True),
        types.Array(types.int16, 1, "C", readonly=True),
    )
)
def _first_stale(
    held: NDArray[np.int16], slots: NDArray[np.int32], asked: NDArray[np.int16]
) -> int:
    """The first pair whose slot there is not, is empty, or holds another expert than is
    asked for; -1 without. No `asked` ones are any."""
    for pair in range(len(slots)):
        slot = slots[pair]
        if not 0 <= slot < len(held) or held[slot] == EMPTY_SLOT:
            return pair
        is_checked = len(asked) > 0 and asked[pair] != EMPTY_SLOT
        if is_checked and asked[pair] != held[slot]:
            return pair
    return -1


def rounded_size(size: int) -> int:
    """A hidden or intermediate size with the zeros that the kernels ask for."""
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
