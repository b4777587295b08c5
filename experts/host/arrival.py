"""When a frame came, as well as who reads it can know.

A host looks at its links between two calls of the kernel. What it then finds without
having slept came at some moment since its last look, and the middle of that time is taken.
What ends a sleep came at that moment.

Worked example: looks at 0 and at 10 ms, with a kernel's call between them. A frame found
at once at 10 ms came between the two, and is taken to have waited for 5 ms.
"""

_AT_ONCE_S = 50e-6
"""A look that takes longer has slept."""


class ArrivalClock:
    """The looks of one thread."""

    def __init__(self, now_s: float) -> None:
        self._looked_s = now_s

    def arrived_s(self, began_s: float, found_s: float) -> float:
        """Of what a look found that took from `began_s` to `found_s`."""
        last_s, self._looked_s = self._looked_s, found_s
        assert last_s <= began_s <= found_s
        if found_s - began_s > _AT_ONCE_S:
            return found_s
        return (last_s + found_s) / 2

    def check_invariants(self) -> None:
        """Raises AssertionError for a time that is none."""
        assert self._looked_s >= 0
