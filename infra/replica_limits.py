"""What sections have in common that say how many replicas there are, and may be."""

from typing import Protocol


class Counts(Protocol):
    """Such a section: replicas to begin with, the fewest and the most."""

    @property
    def num_replicas(self) -> int:
        """To begin with."""
        ...

    @property
    def min_replicas(self) -> int | None:
        """None: as many as to begin with."""
        ...

    @property
    def max_replicas(self) -> int | None:
        """None: as many as to begin with."""
        ...


class ReplicaLimits:
    """Mixed into them."""

    @property
    def fewest(self: Counts) -> int:
        """The limit when scaling in."""
        return self.num_replicas if self.min_replicas is None else self.min_replicas

    @property
    def most(self: Counts) -> int:
        """The limit when scaling out."""
        return self.num_replicas if self.max_replicas is None else self.max_replicas

    def check_limits(self: Counts) -> None:
        """Raises ValueError for limits that do not enclose the number to begin with."""
        limits = (self.min_replicas, self.num_replicas, self.max_replicas)
        given = [each for each in limits if each is not None]
        if given != sorted(given):
            raise ValueError("write min_replicas <= num_replicas <= max_replicas")
