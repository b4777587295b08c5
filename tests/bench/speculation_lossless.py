"""Whether drafts change an answer: greedy answers with all drafters and without, one by one.

    coterie distill smollm2-135m-instruct build/draft
    python -m tests.bench.speculation_lossless --draft build/draft \\
        --json tests/bench/results/speculation_lossless.json

In float32, where two tokens are hardly ever equally likely: in bfloat16 the same sums in
another order, as another batch has them, turn near ties, drafts or not.
"""

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.models.resolve import resolve_model
from tests.bench.speculation import OFF, open_engine
from tests.bench.speculation_prompts import TASKS, as_token_ids
from tests.builders.cluster import STATE_DIR
from tests.builders.json_child import JsonChild

Answers = list[list[int]]


@dataclass(frozen=True)
class Row:
    """One number of sequences at once."""

    way: str
    batch: int
    num_answers: int
    num_tokens: int
    num_other: int
    """Answers that are others than without drafts, one at a time."""
    num_draft_tokens: int
    num_accepted: int


def answered(
    engine: JsonChild, prompts: Answers, batch: int, num_tokens: int
) -> tuple[Answers, Counter[str]]:
    """All answers, so many at once; what has become of drafts."""
    answers: Answers = []
    drafts: Counter[str] = Counter()
    for start in range(0, len(prompts), batch):
        engine.say({"prompts": prompts[start : start + batch], "num_tokens": num_tokens})
        heard = engine.hear()
        answers += heard["answers"]
        drafts.update({name: heard[name] for name in ("num_draft_tokens", "num_accepted")})
    return answers, drafts


def _row(
    way: str, batch: int, answers: Answers, expected: Answers, drafts: Counter[str]
) -> Row:
    return Row(
        way=way,
        batch=batch,
        num_answers=len(answers),
        num_tokens=sum(map(len, answers)),
        num_other=sum(mine != theirs for mine, theirs in zip(answers, expected, strict=True)),
        **drafts,
    )


def main() -> None:
    """Ask, compare and print a row of JSON for each way and batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--draft", type=Path, required=True, help="folder of the draft model")
    parser.add_argument("--ways", nargs="+", default=["all_fixed_4"])
    parser.add_argument("--prompts", type=int, default=100, help="in all (default 100)")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    given.dtype, given.eager = "float32", True
    model = Path(resolve_model(given.model, STATE_DIR).path)
    tasks = [as_token_ids(model, task()) for task in TASKS.values()]
    prompts = [ids for group in zip(*tasks, strict=False) for ids in group][: given.prompts]
    rows = []
    with ExitStack() as stack:
        off = stack.enter_context(open_engine(OFF, model, given))
        # Without drafts the batch changes no answer either; that is tested elsewhere.
        expected, _ = answered(off, prompts, 16, given.tokens)
        for way in given.ways:
            engine = stack.enter_context(open_engine(way, model, given))
            for batch in given.batches:
                answers, drafts = answered(engine, prompts, batch, given.tokens)
                rows.append(asdict(_row(way, batch, answers, expected, drafts)))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
