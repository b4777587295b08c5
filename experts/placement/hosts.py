"""What hosts offer, and whether it is enough for every expert.

Copies of one expert on different hosts outlive a host; two on one host are worth no more
than one. So a host has room for min(num_slots, num_experts) useful copies of a layer, and
m copies of every expert fit on different hosts exactly if there are m hosts and together
they have room for m * num_experts (Gale and Ryser's condition where all want the same).

Worked example: 8 experts, hosts of 6, 6 and 3 slots: room for 15 copies. Each expert has
one, not two (16). With a fourth host of 3 slots each has two, and any host may die.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experts.types import HostId
from infra.errors import ConfigError


@dataclass(frozen=True)
class HostSpec:
    """One host, as placement sees it."""

    host: HostId
    num_slots: int
    """In each layer."""
    activation_s: float = 20e-6
    """Time that an activated expert takes: reading its weights."""
    token_s: float = 0.5e-6
    """Time that each of its tokens adds."""
    is_leaving: bool = False
    """Its copies are to move to other hosts; it gets no new ones."""

    @property
    def num_usable_slots(self) -> int:
        """Slots of each layer that a plan may fill."""
        return 0 if self.is_leaving else self.num_slots


def possible_copies(num_slots: Iterable[int], num_experts: int, wanted: int) -> int:
    """The most copies of every expert on different hosts, at most `wanted`."""
    sizes = [min(size, num_experts) for size in num_slots if size > 0]
    return min(wanted, len(sizes), sum(sizes) // num_experts)


def fewest_hosts(num_slots: Sequence[int], num_experts: int, min_copies: int = 1) -> int:
    """How few of the hosts, the largest first, still have room for every expert.

    `num_slots` are those of each host, in a layer; `min_copies` on different hosts.
    Raises ConfigError where all of them are too few.
    """
    sizes = sorted(num_slots, reverse=True)
    for count in range(1, len(sizes) + 1):
        if possible_copies(sizes[:count], num_experts, min_copies) == min_copies:
            return count
    raise ConfigError(_too_few(sizes, num_experts, min_copies))


def check_room(hosts: Iterable[HostSpec], num_experts: int) -> None:
    """Raises ConfigError where some expert could have no copy."""
    fewest_hosts([spec.num_usable_slots for spec in hosts], num_experts)


def _too_few(sizes: Sequence[int], num_experts: int, min_copies: int) -> str:
    useful = [min(size, num_experts) for size in sizes if size > 0]
    wanted = num_experts * min_copies
    what = "each" if min_copies == 1 else f"{min_copies} copies of each on different hosts"
    there = f"{len(useful)} expert hosts have room for {sum(useful)} experts a layer"
    if not useful:
        return f"{there}; {what} of {num_experts} needs {wanted} slots: start expert hosts"
    more = max(-(-wanted // useful[0]), min_copies)
    slots = -(-wanted // max(len(useful), min_copies))
    return (
        f"{there}; {what} of {num_experts} needs {wanted}: give them at least {slots} slots "
        f"a layer each, or start at least {more} hosts of {useful[0]} slots"
    )
