"""What becomes of answers and of speed while a draft host is killed, stopped and started again.

    python -m tests.bench.draft_failures --draft build/draft \\
        --json tests/bench/results/draft_failures.json

One engine decodes batches of prompts without a pause. In the middle of a batch the host is
killed; later one is started, stopped (it hangs), and woken. Each answer is compared with that
of an engine without drafts.
"""

import argparse
import json
import signal
import statistics
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.drafts.speculation_config import speculation_arguments
from deployments.models.resolve import resolve_model
from router.speculation.settings import SpeculationSection
from tests.bench.speculation import OFF, environment, open_engine
from tests.bench.speculation_prompts import TASKS, as_token_ids
from tests.builders.cluster import STATE_DIR
from tests.builders.draft_tier import LocalDrafts, local_drafts
from tests.builders.json_child import JsonChild

BATCH = 4
_MIDDLE_S = 1.0


@dataclass(frozen=True)
class Phase:
    """Some batches, from an event in the first of them on."""

    event: str
    num_answers: int
    num_other: int
    """Answers that are others than without drafts."""
    ratio: float
    """Tokens a second, to those without drafts of the same prompts: the median."""
    num_accepted: int


class Load:
    """Batches of prompts, for an engine that is watched and one without drafts."""

    def __init__(self, own: JsonChild, off: JsonChild, prompts: list[list[int]]) -> None:
        self._own, self._off = own, off
        self._prompts = iter(prompts)

    def run(self, event: str, num_batches: int, do: Callable[[], None]) -> Phase:
        """The event happens in the middle of the first batch."""
        ratios, num_other, num_accepted = [], 0, 0
        for number in range(num_batches):
            asked = [next(self._prompts) for _ in range(BATCH)]
            timer = threading.Timer(_MIDDLE_S, do)
            if number == 0:
                timer.start()
            own, off = (_answered(engine, asked) for engine in (self._own, self._off))
            if number == 0:
                timer.join()
            pairs = zip(own["answers"], off["answers"], strict=True)
            num_other += sum(mine != theirs for mine, theirs in pairs)
            num_accepted += own["num_accepted"]
            ratios.append(_speed(own) / _speed(off))
        sys.stderr.write(f"{event}: {ratios}\n")
        return Phase(
            event,
            num_batches * BATCH,
            num_other,
            round(statistics.median(ratios), 3),
            num_accepted,
        )


def events(drafts: LocalDrafts) -> dict[str, Callable[[], None]]:
    """What happens, in order."""

    def start() -> None:
        drafts.start()

    def signalled(number: int) -> None:
        drafts.hosts[0].process.send_signal(number)

    return {
        "in peace": lambda: None,
        "killed": drafts.kill,
        "another one started": start,
        "stopped": lambda: signalled(signal.SIGSTOP),
        "woken": lambda: signalled(signal.SIGCONT),
    }


def main() -> None:
    """Measure and print a row of JSON for each phase."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--draft", type=Path, required=True, help="folder of the draft model")
    parser.add_argument("--batches", type=int, default=4, help="a phase (default 4)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    given.dtype, given.eager = "float32", True
    model = Path(resolve_model(given.model, STATE_DIR).path)
    prompts = as_token_ids(model, TASKS["chat"]())
    section = SpeculationSection.model_validate(
        {"drafters": ["draft_model"], "draft": {"model": str(given.draft)}, "max_tokens": 4}
    )
    phases = []
    with ExitStack() as stack:
        off = stack.enter_context(open_engine(OFF, model, given))
        drafts = stack.enter_context(local_drafts(model, given.draft))
        child = JsonChild("tests.bench.speculation_engine", environment() | drafts.environment)
        stack.enter_context(closing(child))
        arguments = {"model": str(model), "dtype": "float32", "enforce_eager": True}
        child.say(arguments | speculation_arguments(section))
        child.hear()
        load = Load(child, off, prompts)
        load.run("warming up", 2, lambda: None)
        for event, do in events(drafts).items():
            phases.append(asdict(load.run(event, given.batches, do)))
            sys.stdout.write(json.dumps(phases[-1]) + "\n")
            sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(phases, indent=1) + "\n")


def _answered(engine: JsonChild, prompts: list[list[int]]) -> dict[str, Any]:
    engine.say({"prompts": prompts, "num_tokens": 96})
    return engine.hear()


def _speed(answer: dict[str, Any]) -> float:
    return float(answer["num_tokens"] / answer["seconds"])


if __name__ == "__main__":
    main()
