"""The registry of epochs, as one small read of it gives it."""

from collections.abc import Mapping
from dataclasses import dataclass

from cache.store.stream import parse_holder
from cache.types import Epoch, EpochBit


@dataclass(frozen=True)
class Registry:
    """Which epochs live, and how far the stream is.

    An empty `incarnation`: no epoch has ever begun, or the registry was lost.
    """

    incarnation: bytes = b""
    epochs: tuple[Epoch, ...] = ()
    """Those that live, by their bits."""

    bit_to_seq: Mapping[EpochBit, int] | None = None
    """Seq of the latest change of each live epoch; none, where it has none yet."""

    last_number: int = 0
    """Number of the latest epoch that has begun."""

    last_index: int = 0
    """Index of the stream's latest entry; all above is as of this entry."""

    ended: Mapping[EpochBit, int] | None = None
    """Bits that may be left in entries, and the numbers of their epochs."""

    has_orphans: bool = False
    """Entries of lost incarnations may be there."""

    def check_invariants(self) -> None:
        """No bit is live twice, or live and ended; no number is above the last."""
        bits = [epoch.bit for epoch in self.epochs]
        assert bits == sorted(set(bits))
        assert not set(bits) & set(self.ended or {})
        assert set(self.bit_to_seq or {}) <= set(bits)
        numbers = [epoch.number for epoch in self.epochs]
        assert len(set(numbers)) == len(numbers)
        assert all(number <= self.last_number for number in numbers)


def parse_registry(fields: Mapping[bytes, bytes]) -> Registry:
    """From the fields of its hash. Raises ValueError for what no release has written."""
    if b"i" not in fields:
        return Registry()
    epochs = [_epoch(name, value) for name, value in fields.items() if name[:1] == b"e"]
    return Registry(
        incarnation=fields[b"i"],
        epochs=tuple(sorted(epochs, key=lambda epoch: epoch.bit)),
        bit_to_seq=_numbers(fields, b"q"),
        last_number=int(fields[b"n"]),
        last_index=int(fields[b"x"]),
        ended=_numbers(fields, b"d"),
        has_orphans=b"o" in fields,
    )


def _epoch(name: bytes, value: bytes) -> Epoch:
    number, _, holder = value.split(b":", 2)
    return Epoch(parse_holder(holder), EpochBit(int(name[1:])), int(number))


def _numbers(fields: Mapping[bytes, bytes], kind: bytes) -> dict[EpochBit, int]:
    return {EpochBit(int(f[1:])): int(v) for f, v in fields.items() if f[:1] == kind}
