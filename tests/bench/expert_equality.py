"""Whether a model says the same tokens with its experts on hosts, whatever hosts do.

    python -m tests.bench.expert_equality --json tests/bench/results/expert_equality.json

An engine with its experts itself answers prompts of real text, greedily, one at a time and 16
at once. So does one whose experts are on three hosts with two copies of each, first in
peace, then while a host is added, killed, stopped for two seconds and taken away, again and
again, and copies move. Answers are compared token by token.
"""

import argparse
import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from deployments.models.carve.texts import default_texts
from deployments.models.resolve import resolve_model
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import Dtype
from experts.settings import RebalanceSection
from tests.builders.cluster import STATE_DIR
from tests.builders.expert_load import Load, LoadedEngine, Said
from tests.builders.expert_tier import LocalTier, local_tier

_STOPPED_S = 2.0
_PROMPT_TOKENS = (8, 64)
_PARAGRAPH_CHARS = 80

Answers = Mapping[int, list[int]]


@dataclass(frozen=True)
class Row:
    """One number of sequences at once."""

    batch: int
    num_prompts: int
    num_tokens: int
    num_wrong: int
    """Prompts whose answers differ in any token."""
    seconds: float
    events: Mapping[str, int]
    """What befell hosts meanwhile; nothing where they were left in peace."""


def prompts(model: Path, count: int) -> list[list[int]]:
    """The beginnings of paragraphs that the carved model was not fitted to."""
    # Takes seconds to import.
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model)
    least, most = _PROMPT_TOKENS
    paragraphs = [
        " ".join(paragraph.split())
        for paragraph in default_texts(0).held_out.split("\n\n")
        if len(paragraph) >= _PARAGRAPH_CHARS
    ]
    found = []
    for number, paragraph in enumerate(paragraphs[:count]):
        length = least + number * (most - least) // count
        found.append(tokenizer.encode(paragraph)[:length])
    assert len(found) == count
    return found


def add(tier: LocalTier) -> None:
    """A host more, and what moves to it."""
    tier.start()
    tier.until_settled()


def kill(tier: LocalTier) -> None:
    """The oldest host; another takes its place."""
    tier.hosts.pop(0).kill()
    add(tier)


def stop(tier: LocalTier) -> None:
    """The oldest host, for a while."""
    process = tier.hosts[0].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(_STOPPED_S)
    process.send_signal(signal.SIGCONT)
    tier.until_settled()


def take_away(tier: LocalTier) -> None:
    """The oldest host, which ends in order."""
    tier.hosts.pop(0).close()
    tier.tell()
    tier.until_settled()


CHANGES: tuple[Callable[[LocalTier], None], ...] = (add, kill, stop, take_away)


def change(tier: LocalTier, is_over: threading.Event) -> Counter[str]:
    """One after the other, until it is over."""
    events: Counter[str] = Counter()
    for what in itertools.cycle(CHANGES):
        if is_over.is_set():
            return events
        what(tier)
        events[what.__name__] += 1
    raise AssertionError("a cycle has no end")


def answered(engine: LoadedEngine, tier: LocalTier | None) -> tuple[Said, Counter[str]]:
    """All that it answers, and what befell the tier's hosts meanwhile."""
    if tier is None:
        return engine.wait(), Counter()
    is_over = threading.Event()
    found: list[Said] = []

    def wait() -> None:
        try:
            found.append(engine.wait())
        finally:
            is_over.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    events = change(tier, is_over)
    waiter.join()
    return found[0], events


def measure(model: Path, dtype: Dtype, batches: Sequence[int], load: Load) -> Iterator[Row]:
    """Two rows for each number of sequences at once."""
    num_experts = CheckpointReader.open(model).config.shape.num_experts
    num_slots = min(num_experts, -(-2 * num_experts // 3))
    rebalance = RebalanceSection(min_copies=2, min_interval_s=5.0)
    for batch in batches:
        common: dict[str, Any] = {"dtype": dtype, "max_num_seqs": batch}
        own = LoadedEngine({"model": str(model)} | common, {}, load)
        expected = dict(own.wait().answers)
        with local_tier(model, 3, num_slots, dtype, rebalance) as tier:
            for is_changing in (False, True):
                arguments = tier.engine_arguments() | common
                engine = LoadedEngine(arguments, tier.environment, load)
                said, events = answered(engine, tier if is_changing else None)
                yield _row(batch, load, said, expected, events)


def _row(batch: int, load: Load, said: Said, expected: Answers, events: Counter[str]) -> Row:
    assert len(said.answers) == load.num_prompts
    return Row(
        batch=batch,
        num_prompts=load.num_prompts,
        num_tokens=load.num_tokens,
        num_wrong=sum(ids != expected[number] for number, ids in said.answers),
        seconds=said.steps[-1][0] - said.steps[0][0],
        events=dict(events),
    )


def main() -> None:
    """Measure and print a row of JSON for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-carved-16x12", help="model reference")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompts", type=int, default=50, help="prompts (default 50)")
    parser.add_argument("--tokens", type=int, default=64, help="of each (default 64)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    model = Path(resolve_model(given.model, STATE_DIR).path)
    asked = prompts(model, given.prompts)
    load = Load(given.prompts, given.tokens, max_token=0, once=True, prompts=asked)
    rows = []
    for row in measure(model, given.dtype, given.batches, load):
        rows.append(asdict(row))
        print(json.dumps(rows[-1]), flush=True)
        if given.json:
            # After each, since with one sequence at a time a row takes many minutes.
            what = {"model": given.model, "dtype": given.dtype}
            text = json.dumps({"load": what, "rows": rows}, indent=1) + "\n"
            given.json.write_text(text)


if __name__ == "__main__":
    main()
