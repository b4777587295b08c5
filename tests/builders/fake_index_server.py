"""A server of the index in memory: what `cache/store/server_functions.py` does, in Python.

It has one node, and lets others run between any two commands. Its time is `now_s`; it is
away while `is_away`, and forgets what a test tells it to forget.
"""

import asyncio
import copy
import fnmatch
import itertools
import struct
from collections.abc import Sequence
from typing import Any

from cache.store.link import Command, EpochEndedError, Node, StoreError
from cache.store.server_functions import LIBRARY_NAME

_BEGIN, _END = 1, 2
_FIRST_NUMBER = 1_000_000
_PAGE = 5


class FakeIndexServer:
    """A `Link`, and what is behind it."""

    is_clustered = False

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.is_away = False
        self.strings: dict[bytes, bytes] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.stream: list[tuple[int, bytes]] = []
        self._starts = itertools.count(1)
        self._run_id = "run-0"

    # Link

    async def call_each(self, commands: Sequence[Command]) -> list[Any]:
        answers = []
        for k, command in enumerate(commands):
            # Of fences, which are many, only the first.
            if k == 0 or b"_fence" not in command.parts[1]:
                await self._pass()
            answers.append(self._run(*command.parts))
        # It may have done all, and the answer gets lost.
        await self._pass()
        return answers

    async def nodes(self) -> list[Node]:
        await self._pass()
        return [Node("", self._run_id)]

    async def scan(
        self, node: Node, cursor: bytes, pattern: bytes, count: int
    ) -> tuple[bytes, list[bytes]]:
        """Keys in order; what is put before the cursor meanwhile is not seen."""
        await self._pass()
        del count
        place = bytes.fromhex(cursor.decode()) if cursor != b"0" else b""
        # Without fences, which are many.
        hashes = (key for key in self.hashes if not key.endswith(b"f"))
        later = sorted(k for k in (*self.strings, *hashes) if k > place)[:_PAGE]
        glob = pattern.decode("latin-1")
        found = [k for k in later if fnmatch.fnmatchcase(k.decode("latin-1"), glob)]
        return (later[-1].hex().encode() if len(later) == _PAGE else b"0"), found

    async def close(self) -> None:
        pass

    async def _pass(self) -> None:
        """Others run; then it is there, or not."""
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreError("the server is away")

    # What happens to servers

    def saved(self) -> Any:
        """Its data, as a snapshot file has it."""
        return copy.deepcopy((self.strings, self.hashes, self.stream))

    def restart(self, data: Any = ({}, {}, [])) -> None:
        """It comes back with this data."""
        self._run_id = f"run-{next(self._starts)}"
        self.strings, self.hashes, self.stream = copy.deepcopy(data)

    # Commands

    def _run(self, name: str, *args: Any) -> Any:
        if name == "FCALL":
            function, num_keys = args[0].decode(), int(args[1])
            assert function.startswith(LIBRARY_NAME)
            keys, rest = list(args[2 : 2 + num_keys]), args[2 + num_keys :]
            called = getattr(self, "_" + function.removeprefix(LIBRARY_NAME + "_"))
            return called(keys, *(_text(arg) for arg in rest))
        if name == "HGETALL":
            return dict(self.hashes.get(args[0], {}))
        if name == "MGET":
            return [self.strings.get(key) for key in args]
        if name == "DEL":
            for key in args:
                self.strings.pop(key, None)
                self.hashes.pop(key, None)
            return len(args)
        assert name == "XREAD"
        after, most = int(args[-1].partition("-")[0]), args[1]
        found = [(b"%d-0" % i, {b"v": p}) for i, p in self.stream if i > after]
        return [[args[-2], found[:most]]] if found else []

    def _emit(self, keys: list[bytes], max_length: bytes, payload: bytes) -> None:
        registry = self.hashes[keys[0]]
        registry[b"x"] = b"%d" % (int(registry[b"x"]) + 1)
        self.stream.append((int(registry[b"x"]), payload))
        del self.stream[: -int(max_length)]

    def _end(self, keys: list[bytes], bit: bytes, number: int, max_length: bytes) -> None:
        registry = self.hashes[keys[0]]
        del registry[b"e" + bit]
        registry.pop(b"q" + bit, None)
        registry[b"d" + bit] = b"%d" % number
        self._emit(keys, max_length, struct.pack("<BHQ", _END, int(bit), number))

    def _end_over(self, keys: list[bytes], holder: bytes | None, max_length: bytes) -> None:
        for name, value in list(self.hashes.get(keys[0], {}).items()):
            if name[:1] == b"e":
                number, deadline, its_holder = value.split(b":", 2)
                if int(deadline) < self.now_s * 1000 or its_holder == holder:
                    self._end(keys, name[1:], int(number), max_length)

    def _live(self, keys: list[bytes], bit: bytes, number: bytes) -> dict[bytes, bytes]:
        registry = self.hashes.get(keys[0], {})
        if registry.get(b"e" + bit, b"").split(b":")[0] != number:
            raise EpochEndedError("the epoch has ended")
        return registry

    def _deadline(self, lease_ms: bytes) -> bytes:
        return b"%d" % (self.now_s * 1000 + int(lease_ms))

    def _begin(
        self, keys: list[bytes], holder: bytes, lease: bytes, fresh: bytes, *rest: bytes
    ) -> list[bytes]:
        most, max_length = rest
        if keys[0] not in self.hashes:
            self.stream = []
            # Some time has passed since another registry was lost.
            self.now_s += 0.001
            first = b"%d" % (self.now_s * _FIRST_NUMBER)
            self.hashes[keys[0]] = {b"i": fresh, b"n": first, b"x": first, b"o": b"1"}
        registry = self.hashes[keys[0]]
        taken = {name[1:] for name in registry if name[:1] in (b"e", b"d")}
        bit = next(b"%d" % b for b in range(int(most)) if b"%d" % b not in taken)
        self._end_over(keys, holder, max_length)
        number = max(int(registry[b"n"]) + 1, int(self.now_s * _FIRST_NUMBER))
        registry[b"n"] = b"%d" % number
        registry[b"e" + bit] = b"%d:%b:%b" % (number, self._deadline(lease), holder)
        payload = struct.pack("<BHQ", _BEGIN, int(bit), number) + holder
        self._emit(keys, max_length, payload)
        return [registry[b"i"], bit, b"%d" % number]

    def _renew(
        self, keys: list[bytes], bit: bytes, number: bytes, lease: bytes, max_length: bytes
    ) -> int:
        self._end_over(keys, None, max_length)
        registry = self._live(keys, bit, number)
        holder = registry[b"e" + bit].split(b":", 2)[2]
        registry[b"e" + bit] = b"%b:%b:%b" % (number, self._deadline(lease), holder)
        return 1

    def _finish(self, keys: list[bytes], bit: bytes, number: bytes, max_length: bytes) -> int:
        try:
            self._live(keys, bit, number)
        except EpochEndedError:
            return 0
        self._end(keys, bit, int(number), max_length)
        return 1

    def _sweep(self, keys: list[bytes], max_length: bytes) -> list[bytes]:
        self._end_over(keys, None, max_length)
        registry = self.hashes.get(keys[0], {})
        return [registry.get(b"i", b""), registry.get(b"x", b"0")]

    def _append(
        self, keys: list[bytes], bit: bytes, number: bytes, max_length: bytes, *rest: bytes
    ) -> int:
        registry = self._live(keys, bit, number)
        last = int(registry.get(b"q" + bit, b"-1"))
        for seq, payload in enumerate(rest[1:], start=int(rest[0])):
            if seq > last:
                self._emit(keys, max_length, payload)
                last = seq
        registry[b"q" + bit] = b"%d" % last
        return len(rest) - 1

    def _mark(
        self, keys: list[bytes], bit: bytes, number: bytes, num_set: bytes, _ttl: bytes
    ) -> int:
        if int(self.hashes.get(keys[0], {}).get(bit, b"0")) >= int(number):
            raise EpochEndedError("the epoch has ended")
        flag, split = 1 << int(bit), 1 + int(num_set)
        for key in keys[1:split]:
            self._put(key, self._value(key) | flag)
        for key in keys[split:]:
            self._put(key, self._value(key) & ~flag)
        return len(keys) - 1

    def _fence(self, keys: list[bytes], *pairs: bytes) -> int:
        fence = self.hashes.setdefault(keys[0], {})
        for bit, number in zip(pairs[::2], pairs[1::2], strict=True):
            fence[bit] = b"%d" % max(int(number), int(fence.get(bit, b"0")))
        return 1

    def _scrub(self, keys: list[bytes], mask: bytes) -> int:
        for key in keys:
            self._put(key, self._value(key) & ~int.from_bytes(mask, "little"))
        return len(keys)

    def _scrub_take(self, keys: list[bytes], token: bytes, lease: bytes) -> bytes | None:
        registry = self.hashes.get(keys[0])
        if registry is None:
            return None
        state = b""
        if b"s" in registry:
            other, deadline, state = registry[b"s"].split(b":", 2)
            if other != token and int(deadline) >= self.now_s * 1000:
                return None
        registry[b"s"] = b"%b:%b:%b" % (token, self._deadline(lease), state)
        return state

    def _has_scrub(self, keys: list[bytes], token: bytes) -> bool:
        taken = self.hashes.get(keys[0], {}).get(b"s")
        return taken is not None and taken.split(b":")[0] == token

    def _scrub_save(self, keys: list[bytes], token: bytes, lease: bytes, state: bytes) -> int:
        if not self._has_scrub(keys, token):
            return 0
        self.hashes[keys[0]][b"s"] = b"%b:%b:%b" % (token, self._deadline(lease), state)
        return 1

    def _scrub_done(self, keys: list[bytes], token: bytes, *pairs: bytes) -> int:
        if not self._has_scrub(keys, token):
            return 0
        registry = self.hashes[keys[0]]
        for bit, number in zip(pairs[::2], pairs[1::2], strict=True):
            if registry.get(b"d" + bit) == number:
                del registry[b"d" + bit]
        registry.pop(b"s")
        registry.pop(b"o", None)
        return 1

    def _value(self, key: bytes) -> int:
        return int.from_bytes(self.strings.get(key, b""), "little")

    def _put(self, key: bytes, value: int) -> None:
        if value:
            width = 8
            while value >> 8 * width:
                width *= 2
            self.strings[key] = value.to_bytes(width, "little")
        else:
            self.strings.pop(key, None)


def _text(arg: Any) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode()
