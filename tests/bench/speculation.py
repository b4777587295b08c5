"""Whether drafts pay: tokens a second with and without them, on the same cores.

    python -m tests.bench.speculation --json tests/bench/results/speculation.json

Each way of drafting is an engine of its own, which answers the same prompts greedily:
questions, code to be edited, sentences to be copied. In each round all engines decode the same
prompts in turns of half a second, one after the other, so that a slow spell of the machine
falls on all. What is measured is decoding, from the first token of all answers on.

`off_again` is the same as `off`, and shows what is chance; `idle` has a drafter that never
finds anything, and shows what it costs to have one.

Ways with a draft model need one (`coterie distill smollm2-135m-instruct DIR` makes it); its
host computes on the same cores as its engine, or on one that its engine leaves to it, so that
all ways have as many cores in all.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.drafts.speculation_config import speculation_arguments
from deployments.models.resolve import resolve_model
from router.speculation.settings import SpeculationSection
from tests.bench.speculation_drafts import plain_draft
from tests.bench.speculation_prompts import TASKS, as_token_ids
from tests.builders.cluster import STATE_DIR
from tests.builders.draft_tier import local_drafts
from tests.builders.json_child import JsonChild

OFF = "off"
DRAFT = "DRAFT"
"""In a way: the draft model's folder."""

_TIER = {"drafters": ["draft_model"], "draft": {"model": DRAFT}}
_ALL = ["prompt_lookup", "suffix_counts", "draft_model"]
_AHEAD = {"model": DRAFT, "ahead_tokens": 8}

WAYS: Mapping[str, dict[str, Any]] = {
    OFF: {},
    "off_again": {},
    "idle": {"drafters": ["prompt_lookup"], "min_match_tokens": 1000},
    "vllm_ngram": {
        "engine": {
            "method": "ngram",
            "num_speculative_tokens": 4,
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 4,
        }
    },
    "prompt_lookup": {"drafters": ["prompt_lookup"]},
    "suffix_counts": {"drafters": ["suffix_counts"]},
    "both": {"drafters": ["prompt_lookup", "suffix_counts"]},
    "both_fixed_4": {
        "drafters": ["prompt_lookup", "suffix_counts"],
        "length": "fixed",
        "max_tokens": 4,
    },
    "vllm_draft_model": {
        "engine": {"method": "draft_model", "model": DRAFT, "num_speculative_tokens": 4}
    },
    "tier": _TIER,
    "tier_fixed_4": {**_TIER, "length": "fixed", "max_tokens": 4},
    "tier_ahead": {"drafters": ["draft_model"], "draft": _AHEAD},
    "all": {**_TIER, "drafters": _ALL},
    "all_fixed_4": {**_TIER, "drafters": _ALL, "length": "fixed", "max_tokens": 4},
}
_DEFAULT = (
    *("vllm_ngram", "vllm_draft_model", "prompt_lookup", "suffix_counts"),
    *("tier", "all", "all_fixed_4"),
)
"""With `off` as many engines as 24 GB of memory hold."""
OWN_CORE = frozenset({"tier_ahead"})
"""Ways whose draft host has the last core to itself."""


@dataclass(frozen=True)
class Row:
    """One way, task and number of sequences at once: medians over rounds.

    The ratio is of tokens a second, to those of `off` in the same round.
    """

    task: str
    batch: int
    way: str
    tokens_per_s: float
    tpot_ms: float
    """Of one sequence, from token to token."""
    ratio: float
    ratio_min: float
    ratio_max: float
    tokens_per_step: float
    """Of one sequence."""
    acceptance_rate: float | None
    accepted_at: list[float]
    """Of all drafts, the share that was accepted up to each position."""
    same_answers: float
    """Share of answers that are those of `off`, token for token."""


def environment(num_left: int = 0) -> dict[str, str]:
    """All cores to the one process that an engine is here, but the last so many."""
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: len(cores) - num_left]
    return {
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def measure(
    engines: Mapping[str, JsonChild], task: str, prompts: list[list[int]], load: Any
) -> Iterator[Row]:
    """A row for each way and batch. No prompt is asked twice: who keeps what was said would
    know the answer."""
    unasked = iter(prompts)
    for batch in load.batches:
        samples: dict[str, list[dict[str, Any]]] = {way: [] for way in engines}
        for number in range(-load.warm_up, load.rounds):
            chosen = list(itertools.islice(unasked, batch))
            assert len(chosen) == batch, f"{task} has {len(prompts)} prompts; ask fewer rounds"
            ways = list(engines)
            order = ways[number % len(ways) :] + ways[: number % len(ways)]
            asked = {"prompts": chosen, "num_tokens": load.tokens, "turn_s": load.turn_s}
            for way, sample in in_turns({way: engines[way] for way in order}, asked).items():
                samples[way].append(sample)
            print(f"{task} {batch} round {number + 1}/{load.rounds}", file=sys.stderr)
        first = load.warm_up
        for way in engines:
            yield _row(task, batch, way, samples[OFF][first:], samples[way][first:])


def in_turns(
    engines: Mapping[str, JsonChild], asked: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Each engine's answer to the same; those that pause go on when all others had a turn."""
    answers = {}
    line, left = asked, list(engines)
    while left:
        for way in list(left):
            engines[way].say(line)
            heard = engines[way].hear()
            if "paused" not in heard:
                answers[way] = heard
                left.remove(way)
        line = {}
    return answers


def _row(
    task: str, batch: int, way: str, base: Sequence[Mapping[str, Any]], own: Sequence[Any]
) -> Row:
    speeds = [sample["num_tokens"] / sample["seconds"] for sample in own]
    ratios = [
        speed / (sample["num_tokens"] / sample["seconds"])
        for speed, sample in zip(speeds, base, strict=True)
    ]
    num_drafts = sum(sample["num_drafts"] for sample in own)
    num_draft_tokens = sum(sample["num_draft_tokens"] for sample in own)
    num_positions = max(len(sample["accepted_at"]) for sample in own)
    accepted_at = [
        sum(s["accepted_at"][i] for s in own if i < len(s["accepted_at"]))
        for i in range(num_positions)
    ]
    answers = [
        mine == theirs
        for sample, other in zip(own, base, strict=True)
        for mine, theirs in zip(sample["answers"], other["answers"], strict=True)
    ]
    num_accepted = sum(sample["num_accepted"] for sample in own)
    return Row(
        task=task,
        batch=batch,
        way=way,
        tokens_per_s=round(statistics.median(speeds), 1),
        tpot_ms=round(1e3 * batch / statistics.median(speeds), 2),
        ratio=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        tokens_per_step=round(
            sum(s["num_tokens"] for s in own) / sum(s["num_steps"] for s in own) / batch, 2
        ),
        acceptance_rate=round(num_accepted / num_draft_tokens, 3) if num_draft_tokens else None,
        accepted_at=[round(n / num_drafts, 3) for n in accepted_at] if num_drafts else [],
        same_answers=round(sum(answers) / len(answers), 3),
    )


@contextmanager
def open_engine(way: str, model: Path, given: Any, seed: int = 0) -> Iterator[JsonChild]:
    """One that drafts so, and is ready."""
    with ExitStack() as stack:
        variables = environment(num_left=way in OWN_CORE)
        text = json.dumps(WAYS[way])
        if DRAFT in text:
            draft = given.draft
            if "engine" in WAYS[way]:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                draft = plain_draft(draft, model, Path(folder))
            text = text.replace(DRAFT, str(draft))
        section = SpeculationSection.model_validate_json(text)
        if section.has_draft_tier:
            cores = sorted(os.sched_getaffinity(0))
            # Of the shared ones that where the engine waits for drafts, not where OpenMP does.
            own = cores[-1:] if way in OWN_CORE else cores[:1]
            fields = section.draft.model_dump(mode="json")
            tier = local_drafts(model, draft, cores=own, **fields)
            variables |= stack.enter_context(tier).environment
        child = JsonChild("tests.bench.speculation_engine", variables)
        stack.enter_context(closing(child))
        base = {
            "model": str(model),
            "dtype": given.dtype,
            "enforce_eager": given.eager,
            "seed": seed,
        }
        child.say(base | speculation_arguments(section))
        child.hear()
        yield child


def main() -> None:
    """Measure and print a row of JSON for each way, task and batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--eager", action="store_true", help="engines that compile nothing")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=_DEFAULT)
    parser.add_argument("--draft", type=Path, help="folder of the draft model")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them (default 1)")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer, at most")
    parser.add_argument("--turn-s", type=float, default=0.5, help="seconds (default 0.5)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    model = Path(resolve_model(given.model, STATE_DIR).path)
    chosen = [way for way in given.ways if given.draft or DRAFT not in str(WAYS[way])]
    rows = []
    with ExitStack() as stack:
        engines = {
            way: stack.enter_context(open_engine(way, model, given))
            for way in dict.fromkeys([OFF, *chosen])
        }
        for task in given.tasks:
            prompts = as_token_ids(model, TASKS[task]())
            for row in measure(engines, task, prompts, given):
                rows.append(asdict(row))
                print(json.dumps(rows[-1]), flush=True)
                if given.json:
                    given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
