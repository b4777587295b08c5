"""What it takes to send a frame to an expert host and have it sent back, on one machine.

    python -m tests.bench.expert_transport --json tests/bench/results/expert_transport.json

The host is a process that sends each frame back. The ways:

| way           | what                                  | copies of a frame, there and back |
|---------------|---------------------------------------|-----------------------------------|
| shared_memory | `unix://`: rings and a bell           | 2                                 |
| tcp           | `tcp://`: ZeroMQ with CURVE, loopback | 14, and 4 passes of encryption    |
| pipe          | `multiprocessing.Pipe`: not bounded   | 6                                 |
|               | in time, one peer, not encrypted      |                                   |

Two copies are there in any way: the engine gathers rows into the frame, and the host
computes into it. A pipe adds into the kernel and out of it, each way. TCP adds into the
message, encrypted, into the kernel, out of it, decrypted, and to where the frame begins at a
multiple of 64.

Bytes for one token of a layer with hidden size h of 2 bytes, and k experts on this host: a
request has 2h for the row and 8k for the pairs, its answer 2hk; a frame adds 64, and up to 56
before the rows. With h = 576 and k = 6 (top 12 over 2 hosts): 1,200 there and 6,912 back.

Sizes: 1.2 KB is a row of 576, 37 KB are 32 of them, 1 MB are 910. Ways take turns by rounds.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from experts.transport.errors import PeerLostError
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.transport.messages import (
    RequestHeader,
    RowType,
    read_request,
    seal,
    write_request,
)

SIZES = (1_200, 37_000, 1_048_576)
SETTINGS = LinkSettings(max_frame_bytes=2 * 1024 * 1024, set_up_timeout_s=30.0)
SECRET = "of this benchmark alone"
TIMEOUT_S = 30.0

RoundTrip = Callable[[bytes], int]
"""Sends the bytes, and returns how many came back."""


@dataclass(frozen=True)
class TripRow:
    """A way and a size: medians over the rounds, of which each has many round trips."""

    way: str
    num_bytes: int
    median_us: float
    """Of one round trip; the median over all."""
    p10_us: float
    """The tenth of them that others on the machine disturbed least."""
    engine_cpu_us: float
    """Of one round trip, all threads of the engine's process."""
    host_cpu_us: float


@dataclass(frozen=True)
class FrameRow:
    """Laying out a request in place, and reading it, without the copy of its rows."""

    num_rows: int
    num_pairs: int
    write_us: float
    read_us: float
    checksum_us: float
    """What a checksum adds to one of the two."""


def echo_frames(pipe: Connection, address: str) -> None:
    """The host, where there are links."""
    with Hub(Identity("host", "bench"), SETTINGS, SECRET) as hub:
        pipe.send(hub.listen(address))
        while True:
            for link in hub.wait(TIMEOUT_S):
                try:
                    frame = link.receive()
                except PeerLostError:
                    return
                if frame is not None:
                    link.reserve(len(frame), TIMEOUT_S)[:] = frame
                    link.commit()
                    link.release()


def echo_bytes(pipe: Connection, _: str) -> None:
    """The host, where there is a pipe."""
    pipe.send("")
    buffer, out = bytearray(SETTINGS.max_frame_bytes), bytearray(SETTINGS.max_frame_bytes)
    with contextlib.suppress(EOFError):
        while True:
            size = pipe.recv_bytes_into(buffer)
            out[:size] = memoryview(buffer)[:size]
            pipe.send_bytes(out, 0, size)


@contextlib.contextmanager
def linked(address: str) -> Iterator[tuple[int, RoundTrip]]:
    """A host's process, and the way to it by a link."""
    with (
        started(echo_frames, address) as (pid, pipe),
        Hub(Identity("engine", "bench"), SETTINGS, SECRET) as hub,
    ):
        link = hub.dial(pipe.recv())

        def round_trip(content: bytes) -> int:
            link.reserve(len(content), TIMEOUT_S)[:] = content
            link.commit()
            assert hub.wait(TIMEOUT_S)
            frame = link.receive()
            assert frame is not None
            link.release()
            return len(frame)

        yield pid, round_trip


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, RoundTrip]]:
    """A host's process, and the way to it by a pipe."""
    with started(echo_bytes, "") as (pid, pipe):
        pipe.recv()
        buffer, out = bytearray(SETTINGS.max_frame_bytes), bytearray(SETTINGS.max_frame_bytes)

        def round_trip(content: bytes) -> int:
            out[: len(content)] = content
            pipe.send_bytes(out, 0, len(content))
            return int(pipe.recv_bytes_into(buffer))

        yield pid, round_trip


@contextlib.contextmanager
def started(target: Callable[[Any, str], None], address: str) -> Iterator[tuple[int, Any]]:
    """A process and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, address))
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield process.pid, ours
    finally:
        ours.close()
        process.join(1.0)
        process.kill()
        process.join()


def measure_trips(num_rounds: int) -> Iterator[TripRow]:
    """A row for each way and size."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ways = {
            "shared_memory": stack.enter_context(linked(f"unix://{folder}/host")),
            "tcp": stack.enter_context(linked("tcp://127.0.0.1:0")),
            "pipe": stack.enter_context(piped()),
        }
        for size in SIZES:
            content = os.urandom(size)
            trips = max(20, min(500, 20_000_000 // size // 10))
            samples: dict[str, list[Sample]] = {way: [] for way in ways}
            for number in range(num_rounds + 1):
                for way, (pid, round_trip) in _turn(list(ways.items()), number):
                    sample = sample_of(pid, round_trip, content, trips)
                    # The first round warms everything up.
                    samples[way] += [sample] if number else []
            for way in ways:
                yield _row(way, size, samples[way])


@dataclass(frozen=True)
class Sample:
    """One way's part of a round."""

    times_us: list[float]
    engine_cpu_us: float
    host_cpu_us: float


def sample_of(pid: int, round_trip: RoundTrip, content: bytes, trips: int) -> Sample:
    """So many round trips one after the other."""
    times = []
    cpu = (_cpu_s(os.getpid()), _cpu_s(pid))
    for _ in range(trips):
        begun = time.perf_counter()
        assert round_trip(content) == len(content)
        times.append(1e6 * (time.perf_counter() - begun))
    used = (_cpu_s(os.getpid()) - cpu[0], _cpu_s(pid) - cpu[1])
    return Sample(times, 1e6 * used[0] / trips, 1e6 * used[1] / trips)


def measure_frames(num_rounds: int) -> Iterator[FrameRow]:
    """Rows of 576 bfloat16, with 6 experts each."""
    for num_rows in (1, 32, 910):
        plain = RequestHeader(1, 0, 1, num_rows, 6 * num_rows, 576, RowType.BFLOAT16)
        summed = plain._replace(has_checksum=True)
        frame = np.zeros(plain.num_bytes, np.uint8).data
        steps: dict[str, Callable[[], object]] = {
            "write": lambda: write_request(frame, plain),  # noqa: B023
            "read": lambda: read_request(frame),  # noqa: B023
        }
        found = {name: _median_us(step, num_rounds) for name, step in steps.items()}
        write_request(frame, summed)
        added = _median_us(lambda: seal(frame), num_rounds)  # noqa: B023
        yield FrameRow(num_rows, 6 * num_rows, found["write"], found["read"], added)


def _median_us(step: Callable[[], object], num_rounds: int) -> float:
    times = []
    for _ in range(100 * num_rounds):
        begun = time.perf_counter_ns()
        step()
        times.append((time.perf_counter_ns() - begun) / 1000)
    return round(statistics.median(times), 2)


def _turn(ways: list[Any], number: int) -> list[Any]:
    first = number % len(ways)
    return ways[first:] + ways[:first]


def _cpu_s(pid: int) -> float:
    """Of all threads of a process, by its clock (linux/posix-timers.h: CPUCLOCK_SCHED)."""
    return time.clock_gettime(~pid << 3 | 2)


def _row(way: str, num_bytes: int, samples: list[Sample]) -> TripRow:
    times = sorted(t for sample in samples for t in sample.times_us)
    return TripRow(
        way=way,
        num_bytes=num_bytes,
        median_us=round(statistics.median(times), 1),
        p10_us=round(times[len(times) // 10], 1),
        engine_cpu_us=round(statistics.median(s.engine_cpu_us for s in samples), 1),
        host_cpu_us=round(statistics.median(s.host_cpu_us for s in samples), 1),
    )


def main() -> None:
    """Measure, and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each case (default 20)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    report: dict[str, list[Any]] = {"round_trips": [], "frames": []}
    for row in measure_trips(given.rounds):
        report["round_trips"].append(asdict(row))
        print("round_trips", json.dumps(asdict(row)), flush=True)
    for frame_row in measure_frames(given.rounds):
        report["frames"].append(asdict(frame_row))
        print("frames", json.dumps(asdict(frame_row)), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
