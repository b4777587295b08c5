"""Whether drafts change how often a token is said at a temperature: the real model, sampled.

    coterie distill smollm2-135m-instruct build/draft
    python -m tests.bench.speculation_frequencies --draft build/draft \\
        --json tests/bench/results/speculation_frequencies.json

Each prompt is answered many times, by an engine with drafts and twice by one without. At each
position of the answers the tokens of two such samples are counted and compared by chi-square:
those with drafts with those without, and as a measure of chance those without among
themselves. Of many comparisons the least likely one is told, times their number (Bonferroni),
which is at most 1; below 0.01 something is wrong.
"""

import argparse
import json
import statistics
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
from tests.reference.chi_square import chi_square

Frequencies = list[list[Counter[int]]]
"""How often each token was said, by prompt and position."""

_BATCH = 32
_FEWEST = 10  # of a token in two samples, to be compared by itself


@dataclass(frozen=True)
class Row:
    """Samples of one way, against those without drafts."""

    way: str
    temperature: float
    num_answers: int
    num_comparisons: int
    """Prompts, times positions of their answers."""
    least_likelihood: float
    """Of all comparisons, times their number."""
    agreement: float
    """Share of tokens that two samples have in common: the median of all comparisons."""
    num_draft_tokens: int
    num_accepted: int


class Sampling:
    """Answers to the same prompts by several engines, as many of each."""

    def __init__(self, prompts: list[list[int]], given: argparse.Namespace) -> None:
        self._prompts = prompts
        self._given = given
        self._num_turns = given.samples // _BATCH

    def frequencies(self, engine: JsonChild) -> tuple[Frequencies, Counter[str]]:
        """How often it says what, and what has become of its drafts."""
        num_tokens = self._given.tokens
        found: Frequencies = []
        drafts: Counter[str] = Counter()
        for number, prompt in enumerate(self._prompts):
            counts: list[Counter[int]] = [Counter() for _ in range(num_tokens)]
            for _ in range(self._num_turns):
                engine.say(
                    {
                        "prompts": [prompt] * _BATCH,
                        "num_tokens": num_tokens,
                        "temperature": self._given.temperature,
                    }
                )
                heard = engine.hear()
                for answer in heard["answers"]:
                    # An answer that has ended goes on as a token that there is not.
                    for position in range(num_tokens):
                        token = answer[position] if position < len(answer) else -1
                        counts[position][token] += 1
                drafts.update({n: heard[n] for n in ("num_draft_tokens", "num_accepted")})
            found.append(counts)
            sys.stderr.write(f"prompt {number + 1}/{len(self._prompts)}\n")
        return found, drafts

    def row(self, way: str, own: Frequencies, base: Frequencies, drafts: Counter[str]) -> Row:
        """Two samples compared at each position."""
        pairs = [
            pair
            for mine, theirs in zip(own, base, strict=True)
            for pair in zip(mine, theirs, strict=True)
        ]
        least = min(chi_square(*pair, fewest=_FEWEST).likelihood for pair in pairs)
        common = [(mine & theirs).total() / mine.total() for mine, theirs in pairs]
        return Row(
            way=way,
            temperature=self._given.temperature,
            num_answers=len(own) * self._num_turns * _BATCH,
            num_comparisons=len(pairs),
            least_likelihood=round(min(least * len(pairs), 1.0), 6),
            agreement=round(statistics.median(common), 3),
            num_draft_tokens=drafts["num_draft_tokens"],
            num_accepted=drafts["num_accepted"],
        )


def main() -> None:
    """Sample, compare and print a row of JSON for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--draft", type=Path, required=True, help="folder of the draft model")
    parser.add_argument("--ways", nargs="+", default=["all_fixed_4"])
    parser.add_argument("--prompts", type=int, default=6, help="in all (default 6)")
    parser.add_argument("--samples", type=int, default=512, help="of each (default 512)")
    parser.add_argument("--tokens", type=int, default=8, help="of each answer (default 8)")
    parser.add_argument("--temperature", type=float, default=1.0, help="default 1.0")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    given.dtype, given.eager = "float32", True
    model = Path(resolve_model(given.model, STATE_DIR).path)
    tasks = [as_token_ids(model, task()) for task in TASKS.values()]
    prompts = [ids for group in zip(*tasks, strict=False) for ids in group][: given.prompts]
    sampling = Sampling(prompts, given)
    rows = []
    with ExitStack() as stack:
        off = stack.enter_context(open_engine(OFF, model, given, seed=1))
        base, _ = sampling.frequencies(off)
        # The same engine goes on with other random numbers.
        samples = {"off, once more": sampling.frequencies(off)}
        for number, way in enumerate(given.ways):
            engine = stack.enter_context(open_engine(way, model, given, seed=2 + number))
            samples[way] = sampling.frequencies(engine)
        for way, (own, drafts) in samples.items():
            rows.append(asdict(sampling.row(way, own, base, drafts)))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
