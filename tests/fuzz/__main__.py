"""Strangers at every door: changed and garbled input, and what became of it.

    python -m tests.fuzz --inputs 100000 --json build/fuzz.json

Doors are those of a real gateway on loopback (gRPC of both protocols, HTTP) with real checks,
admission and links, and an engine that says three tokens; readers are the functions that read
what processes of a cluster send each other. A failure is an internal error, a connection that
ended, an answer that did not come in time, anything left open, or memory that grew and stayed.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from deployments.gateway.tokenizer import Tokenizer
from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR
from tests.fuzz.doors import (
    Doors,
    check_left,
    doors,
    kserve_methods,
    native_methods,
    run_grpc,
    run_http,
)
from tests.fuzz.openapi import run_openapi
from tests.fuzz.readers import Findings, readers, run, summary

_MAX_GROWTH_BYTES = 64 * 1024**2
"""Of the second half of the inputs. The first fills caches and pools."""

Run = Callable[[Doors, int, random.Random], Awaitable[Findings]]

DOORS: dict[str, Run] = {
    "grpc": lambda at, n, dice: run_grpc("grpc", native_methods(), at, n, dice),
    "kserve": lambda at, n, dice: run_grpc("kserve", kserve_methods(), at, n, dice),
    "http": run_http,
    "openapi": run_openapi,
}


async def at_door(name: str, tokenizer: Tokenizer, num_inputs: int, seed: int) -> Findings:
    """In two halves, between which memory is measured."""
    dice = random.Random(f"{seed} {name}")
    async with doors(tokenizer) as at:
        found = await DOORS[name](at, num_inputs // 2, dice)
        gc.collect()
        before = _memory()
        second = await DOORS[name](at, num_inputs - num_inputs // 2, dice)
        await check_left(at, second)
        gc.collect()
        if (growth := _memory() - before) > _MAX_GROWTH_BYTES:
            second.note_failure(f"memory grew by {growth / 1024**2:.0f} MiB", b"")
    found.num_inputs += second.num_inputs
    found.outcomes += second.outcomes
    found.failures += second.failures
    found.seconds += second.seconds
    found.slowest_s = max(found.slowest_s, second.slowest_s)
    return found


def _memory() -> int:
    size: int = psutil.Process().memory_info().rss
    return size


def main() -> int:
    """Print a line of JSON for each door and reader; 1 where something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*DOORS, *(reader.name for reader in readers())]
    parser.add_argument("--inputs", type=int, default=100_000, help="of each (default 100000)")
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    given = parser.parse_args()
    rows = []

    def tell(found: Findings) -> None:
        rows.append(summary(found))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")

    for reader in readers():
        if reader.name in given.only:
            tell(run(reader, given.inputs, random.Random(f"{given.seed} {reader.name}")))
    wanted = [name for name in DOORS if name in given.only]
    if wanted:
        path = resolve_model("smollm2-135m-instruct", STATE_DIR).path
        tokenizer = Tokenizer.load(path, None)
        for name in wanted:
            tell(asyncio.run(at_door(name, tokenizer, given.inputs, given.seed)))
    return int(any(row["failures"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
