"""A real engine that asks a draft host, with a model that drafts for itself."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deployments.drafts.speculation_config import speculation_arguments
from deployments.models.resolve import resolve_model
from router.speculation.settings import SpeculationSection
from tests.bench.speculation import environment
from tests.builders.cluster import STATE_DIR
from tests.builders.draft_tier import LocalDrafts, local_drafts
from tests.builders.json_child import JsonChild
from tests.builders.small_llama import write_small_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

NUM_TOKENS = 96
PROMPTS = [[1, 100 * number, 7 * number, 4000 - number] for number in range(1, 9)]


def engine(model: Path, variables: dict[str, str], **settings: Any) -> JsonChild:
    child = JsonChild("tests.bench.speculation_engine", environment() | variables)
    arguments = {"model": str(model), "dtype": "float32", "enforce_eager": True}
    section = SpeculationSection.model_validate(settings)
    child.say(arguments | speculation_arguments(section))
    child.hear()
    return child


def asked(child: JsonChild, prompts: list[list[int]]) -> dict[str, Any]:
    child.say({"prompts": prompts, "num_tokens": NUM_TOKENS})
    return child.hear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_small_llama(tmp_path_factory.mktemp("model") / "small-llama.gguf")
    return Path(resolve_model(str(path), STATE_DIR).path)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    with closing(engine(model, {})) as child:
        found: list[list[int]] = asked(child, PROMPTS)["answers"]
        return found


@pytest.fixture(scope="module")
def drafts(model: Path) -> Iterator[LocalDrafts]:
    # A few pages, so that sequences give way to each other.
    with local_drafts(
        model, model, ahead_tokens=3, precision="full", kv_cache_memory_bytes=4 * 1024**2
    ) as running:
        yield running


@pytest.fixture(scope="module")
def drafting(model: Path, drafts: LocalDrafts) -> Iterator[JsonChild]:
    draft = {"model": str(model)}
    settings = {"drafters": ["draft_model"], "length": "fixed", "max_tokens": 4}
    with closing(engine(model, drafts.environment, draft=draft, **settings)) as child:
        yield child


def test_all_drafts_of_the_model_itself_are_accepted(
    drafting: JsonChild, expected: list[list[int]]
) -> None:
    found = asked(drafting, PROMPTS)
    assert found["answers"] == expected
    assert found["num_accepted"] > 0.95 * found["num_draft_tokens"] > 0
    assert found["num_steps"] < NUM_TOKENS / 2


def test_a_host_that_is_killed_costs_drafts_and_the_next_one_is_found(
    drafting: JsonChild, drafts: LocalDrafts, expected: list[list[int]]
) -> None:
    drafts.kill()
    found = asked(drafting, PROMPTS)
    assert found["answers"] == expected
    assert found["num_draft_tokens"] == 0
    drafts.start()
    for _ in range(20):
        found = asked(drafting, PROMPTS)
        assert found["answers"] == expected
        if found["num_accepted"]:
            return
    raise AssertionError("no drafts came from the new host")
