"""Targets, numbers and prompts that no draft can be made of."""

from pathlib import Path
from typing import Any

import pytest

from deployments.models.distill.distilling import distill_into
from deployments.models.distill.prompts import Prompt, Prompts
from infra.errors import ConfigError
from infra.progress import SILENT
from tests.deployments.models.carve.tiny_llama import write_tiny_llama
from tests.deployments.models.distill.builders import settings
from tests.deployments.models.distill.test_distill import PROMPTS, Interrupting, no_stage

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


def distill(source: Path, out_dir: Path, prompts: Prompts = PROMPTS, **changes: Any) -> None:
    distill_into(out_dir, source, prompts, settings(**changes), SILENT, no_stage)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2' has no layers for a draft.*llama, mistral"),
        ({"model_type": "mistral", "sliding_window": 8}, "attend to a window"),
    ],
)
def test_a_target_of_other_layers_than_a_drafts_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = write_tiny_llama(tmp_path / "target", **changes)
    with pytest.raises(ConfigError, match=words):
        distill(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, "3 layers cannot be made of a target of 2"),
        ({"vocabulary": 257}, "take 1 to 256"),
        ({"max_answer_tokens": 64}, "no prompt leaves room for 64 tokens"),
    ],
)
def test_more_than_the_target_has_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = write_tiny_llama(tmp_path / "target")
    with pytest.raises(ConfigError, match=words):
        distill(source, tmp_path / "out", **changes)


def test_a_resumed_draft_is_of_the_same_prompts(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "target")
    with pytest.raises(KeyboardInterrupt):
        progress = Interrupting("training", 1)
        distill_into(tmp_path / "out", source, PROMPTS, settings(), progress, no_stage)
    other = Prompts("a test", (Prompt("chat", "another"),), PROMPTS.held_out)
    with pytest.raises(ConfigError, match="other values of prompts;"):
        distill(source, tmp_path / "out", other)
