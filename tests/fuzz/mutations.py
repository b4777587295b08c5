"""What strangers send: samples of what is right, changed at random."""

import json
import random
import struct
from collections.abc import Sequence
from typing import Any

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0xC0, 0xC1, 0xDC, 0xDD, 0xDE, 0xDF, 0xC9)
"""Bytes by which lengths and kinds are told, in msgpack and in protocol buffers."""
_NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_MAX_GROWTH = 4096

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400),
    *(0.5, -0.0, 1e308, -1e308, float("nan"), float("inf")),
    *("", " ", "a", "\x00", "\ud800", "\U0001f9ea" * 40, "x" * 3000, "../../etc/passwd", "7"),
    *([], {}, [None], [[]] * 300, [0] * 3000, ["a"] * 300, {"": None}, {"type": "object"}),
)
"""In the place of any other JSON value."""
NAMES = ("model", "prompt", "messages", "n", "stream", "stop", "id", "inputs", "cache_salt", "")


class Mutations:
    """Never ends, and is the same for the same dice."""

    def __init__(self, samples: Sequence[bytes], dice: random.Random) -> None:
        assert samples
        self._samples = list(samples)
        self._dice = dice

    def next(self) -> bytes:
        """A sample with one change or several; now and then, bytes of no meaning."""
        dice = self._dice
        if dice.random() < 0.02:
            return dice.randbytes(dice.randrange(200))
        data = bytearray(dice.choice(self._samples))
        while True:
            self._change(data)
            if dice.random() < 0.5:
                return bytes(data)

    def _change(self, data: bytearray) -> None:
        dice = self._dice
        at = dice.randrange(len(data) + 1)
        match dice.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(data):
                data[at] = dice.choice(_EDGES)
            case 2:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                del data[at : at + dice.randrange(1, 9)]
            case 4:
                del data[at:]
            case 5:
                kind = dice.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                limit = 2 ** (8 * struct.calcsize(kind))
                number = dice.choice(_NUMBERS) % limit
                data[at : at + struct.calcsize(kind)] = struct.pack(kind, number)
            case 6:
                other = dice.choice(self._samples)
                start = dice.randrange(len(other) + 1)
                data[at:] = other[start : start + _MAX_GROWTH]
            case _:
                part = bytes(data[at : at + dice.randrange(1, 33)])
                data[at:at] = part * dice.randrange(1, 20)


class JsonMutations:
    """JSON values like the samples, of which something is another; now and then no JSON."""

    def __init__(self, samples: Sequence[Any], dice: random.Random) -> None:
        self._samples = [json.dumps(sample) for sample in samples]
        self._bytes = Mutations([text.encode() for text in self._samples], dice)
        self._dice = dice

    def next(self) -> bytes:
        """As the body of a request."""
        dice = self._dice
        if dice.random() < 0.2:
            return self._bytes.next()
        value = json.loads(dice.choice(self._samples))
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            value = self._changed(value)
        text = json.dumps(value, ensure_ascii=dice.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")

    def _changed(self, value: Any) -> Any:
        dice = self._dice
        if isinstance(value, dict) and value and dice.random() < 0.9:
            key = dice.choice(list(value))
            match dice.randrange(6):
                case 0:
                    return {name: each for name, each in value.items() if name != key}
                case 1:
                    return value | {dice.choice(NAMES): dice.choice(VALUES)}
                case _:
                    return value | {key: self._changed(value[key])}
        if isinstance(value, list) and value and dice.random() < 0.9:
            at = dice.randrange(len(value))
            match dice.randrange(5):
                case 0:
                    return value[:at] + value[at + 1 :]
                case 1:
                    return value * dice.randrange(2, 40)
                case _:
                    return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return dice.choice(VALUES)
