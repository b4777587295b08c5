"""At a temperature, drafts change when tokens come and not which: the same distribution."""

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
from tests.reference.chi_square import ChiSquare, chi_square

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

VOCABULARY = (11, 22, 33, 44)
NUM_TOKENS = 3
NUM_SAMPLES, BATCH = 2400, 32

Said = tuple[int, ...]


def samples(model: Path, seed: int, **settings: Any) -> tuple[Counter[Said], dict[str, int]]:
    """What is said after one prompt, how often; and what has become of drafts."""
    section = SpeculationSection.model_validate(settings)
    arguments = {"model": str(model), "dtype": "float32", "enforce_eager": True, "seed": seed}
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
    without, _ = samples(model, seed=7)
    drafted, drafts = samples(
        model, seed=8, drafters=["suffix_counts"], length="fixed", max_tokens=NUM_TOKENS - 1
    )
    assert without.total() == drafted.total() == NUM_SAMPLES
    # Some are accepted and some not, or nothing is shown.
    assert drafts["num_accepted"] > NUM_SAMPLES / 20
    assert drafts["num_draft_tokens"] - drafts["num_accepted"] > NUM_SAMPLES / 20
    found = chi_square(without, drafted)
    assert found.freedom > 30
    assert found.likelihood > 1e-4


def test_the_test_itself_tells_another_distribution() -> None:
    same: Counter[Said] = Counter({(i,): 100 for i in range(20)})
    other: Counter[Said] = Counter({(i,): 75 + 50 * (i % 2) for i in range(20)})
    assert chi_square(same, same).likelihood > 0.99
    assert chi_square(same, other).likelihood < 0.01
    assert ChiSquare(18.3, 10).likelihood == pytest.approx(0.05, abs=0.003)
