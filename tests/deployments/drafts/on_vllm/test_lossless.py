"""At a temperature, drafts change when tokens come and not which: the same distribution."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deployments.drafts.speculation_config import speculation_arguments
from deployments.models.resolve import resolve_model
from router.speculation.settings import SpeculationSection
from tests.bench.speculation import environment
from tests.builders.cluster import STATE_DIR
from tests.builders.json_child import JsonChild
from tests.builders.small_llama import write_small_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

VOCABULARY = (11, 22, 33, 44)
NUM_TOKENS = 3
NUM_SAMPLES, BATCH = 2400, 32

Said = tuple[int, ...]


def chi_square(first: Counter[Said], second: Counter[Said]) -> tuple[float, int]:
    """Of two samples of the same size being from one distribution: the statistic, and its
    degrees of freedom."""
    cells = first.keys() | second.keys()
    found = sum((first[c] - second[c]) ** 2 / (first[c] + second[c]) for c in cells)
    return found, len(cells) - 1


def likelihood_of(statistic: float, freedom: int) -> float:
    """Of a chi-square as high or higher (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2))


def samples(model: Path, **settings: Any) -> tuple[Counter[Said], dict[str, int]]:
    """What is said after one prompt, how often; and what has become of drafts."""
    section = SpeculationSection.model_validate(settings)
    arguments = {"model": str(model), "dtype": "float32", "enforce_eager": True, "seed": 7}
    found: Counter[Said] = Counter()
    drafts = dict.fromkeys(("num_draft_tokens", "num_accepted"), 0)
    with closing(JsonChild("tests.bench.speculation_engine", environment())) as child:
        child.say(arguments | speculation_arguments(section))
        child.hear()
        for _ in range(NUM_SAMPLES // BATCH):
            child.say(_ask([1, 500, 600]))
            answer = child.hear()
            found.update(tuple(said) for said in answer["answers"])
            for name in drafts:
                drafts[name] += answer[name]
    return found, drafts


def _ask(prompt: Sequence[int]) -> dict[str, Any]:
    return {
        "prompts": [list(prompt)] * BATCH,
        "num_tokens": NUM_TOKENS,
        "temperature": 1.0,
        "allowed_token_ids": list(VOCABULARY),
    }


def test_what_is_sampled_with_drafts_is_of_the_distribution_without(tmp_path: Path) -> None:
    path = write_small_llama(tmp_path / "small-llama.gguf")
    model = Path(resolve_model(str(path), STATE_DIR).path)
    without, _ = samples(model)
    drafted, drafts = samples(
        model, drafters=["suffix_counts"], length="fixed", max_tokens=NUM_TOKENS - 1
    )
    assert without.total() == drafted.total() == NUM_SAMPLES
    # Some are accepted and some not, or nothing is shown.
    assert drafts["num_accepted"] > NUM_SAMPLES / 20
    assert drafts["num_draft_tokens"] - drafts["num_accepted"] > NUM_SAMPLES / 20
    statistic, freedom = chi_square(without, drafted)
    assert freedom > 30
    assert likelihood_of(statistic, freedom) > 1e-4


def test_the_test_itself_tells_another_distribution() -> None:
    same: Counter[Said] = Counter({(i,): 100 for i in range(20)})
    other: Counter[Said] = Counter({(i,): 75 + 50 * (i % 2) for i in range(20)})
    assert likelihood_of(*chi_square(same, same)) > 0.99
    assert likelihood_of(*chi_square(same, other)) < 0.01
    assert likelihood_of(18.3, 10) == pytest.approx(0.05, abs=0.003)
