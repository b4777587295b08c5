"""What a batch waits for while nothing comes back."""

from collections.abc import Iterator
from contextlib import contextmanager

from coterie.batch.types import Answer, Fault


class Waiting:
    """How many requests wait to be sent again, and what the newest of them ended with."""

    def __init__(self) -> None:
        self.num = 0
        self.last_error = ""

    @contextmanager
    def counted(self, found: Answer | Fault) -> Iterator[None]:
        """One request waits for the length of the block."""
        self.last_error = str(found)
        self.num += 1
        try:
            yield
        finally:
            self.num -= 1

    def __str__(self) -> str:
        if not self.num:
            return ""
        return f"{self.num} waiting to be sent again: {self.last_error}"
