"""Speculation in a real engine: the same tokens, in fewer steps."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deployments.drafts.speculation_config import speculation_arguments
from deployments.models.resolve import resolve_model
from router.speculation.settings import SpeculationSection
from tests.bench.speculation import environment
from tests.bench.speculation_prompts import TASKS, as_token_ids
from tests.builders.cluster import STATE_DIR
from tests.builders.json_child import JsonChild

pytestmark = pytest.mark.model

NUM_TOKENS = 64
DRAFTERS = ["prompt_lookup", "suffix_counts"]


def engine(model: Path, **settings: Any) -> JsonChild:
    """One that is ready. In float32: two tokens are hardly ever equally likely."""
    child = JsonChild("tests.bench.speculation_engine", environment())
    arguments = {"model": str(model), "dtype": "float32", "enforce_eager": True}
    section = SpeculationSection.model_validate(settings)
    child.say(arguments | speculation_arguments(section))
    child.hear()
    return child


def asked(child: JsonChild, prompts: list[list[int]], **more: Any) -> dict[str, Any]:
    child.say({"prompts": prompts, "num_tokens": NUM_TOKENS, **more})
    return child.hear()


@pytest.fixture(scope="module")
def model() -> Path:
    return Path(resolve_model("smollm2-135m-instruct", STATE_DIR).path)


@pytest.fixture(scope="module")
def prompts(model: Path) -> list[list[int]]:
    """Three of each task."""
    return [ids for task in TASKS.values() for ids in as_token_ids(model, task()[:3])]


@pytest.fixture(scope="module")
def without(model: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """What the engine says without drafts."""
    with closing(engine(model)) as child:
        return asked(child, prompts)


@pytest.fixture(scope="module")
def drafting(model: Path) -> Iterator[JsonChild]:
    """An engine that always verifies all that is drafted."""
    with closing(engine(model, drafters=DRAFTERS, length="fixed", max_tokens=5)) as child:
        yield child


@pytest.mark.timeout(300)
def test_all_at_once_say_the_same_in_fewer_steps(
    drafting: JsonChild, prompts: list[list[int]], without: dict[str, Any]
) -> None:
    found = asked(drafting, prompts)
    assert found["answers"] == without["answers"]
    assert found["num_accepted"] > 0.1 * found["num_tokens"]
    assert found["num_steps"] < without["num_steps"]


@pytest.mark.timeout(300)
def test_one_at_a_time_says_the_same(
    drafting: JsonChild, prompts: list[list[int]], without: dict[str, Any]
) -> None:
    answers = [asked(drafting, [prompt])["answers"][0] for prompt in prompts]
    assert answers == without["answers"]


@pytest.mark.timeout(300)
def test_what_was_said_before_is_said_in_a_few_steps(
    drafting: JsonChild, prompts: list[list[int]]
) -> None:
    first = asked(drafting, prompts[:1])
    again = asked(drafting, prompts[:1])
    assert again["answers"] == first["answers"]
    assert again["num_steps"] <= NUM_TOKENS / 3
