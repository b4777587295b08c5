"""The head that a draft begins with."""

from typing import Any

import numpy as np
import pytest

from deployments.models.distill.answers import Answer
from infra.progress import SILENT
from tests.deployments.models.carve.tiny_llama import write_tiny_llama
from tests.deployments.models.distill.builders import answer

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

IDS = np.arange(0, 256, 3)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from deployments.models.distill.llama import load_llama  # noqa: PLC0415 - takes seconds

    return load_llama(write_tiny_llama(tmp_path_factory.mktemp("target") / "tiny"))


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    dice = np.random.default_rng(0)
    texts = [dice.integers(0, 256, 40).tolist() for _ in range(40)]
    return [answer(text[:10], text[10:]) for text in texts]


def draft_with(target: Any, num_layers: int) -> Any:
    from deployments.models.distill.draft import draft_of  # noqa: PLC0415 - takes seconds

    return draft_of(target, tuple(range(num_layers)), IDS)


def log_shares(model: Any, answers: list[Answer]) -> Any:
    """Of the draft's tokens. Shape: [num_places, len(IDS)]."""
    import torch  # noqa: PLC0415 - takes seconds

    tokens = torch.from_numpy(np.stack([a.tokens for a in answers]).astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, 1:].flatten(0, 1)
    return (logits if logits.shape[1] == len(IDS) else logits[:, IDS]).log_softmax(-1)


def test_with_all_layers_a_draft_says_what_its_target_says(
    target: Any, answers: list[Answer]
) -> None:
    from deployments.models.distill.lens import look_through  # noqa: PLC0415 - takes seconds

    draft = draft_with(target, target.config.num_hidden_layers)
    look_through(draft, target, answers, seed=0, progress=SILENT)
    expected, found = log_shares(target, answers), log_shares(draft, answers)
    assert found.sub(expected).abs().max() < 0.02 * expected.std()


def test_with_some_layers_it_comes_nearer_than_with_the_targets_own_head(
    target: Any, answers: list[Answer]
) -> None:
    from deployments.models.distill.lens import look_through  # noqa: PLC0415 - takes seconds

    draft = draft_with(target, 1)
    expected = log_shares(target, answers)
    before = (log_shares(draft, answers) - expected).square().mean()
    look_through(draft, target, answers, seed=0, progress=SILENT)
    after = (log_shares(draft, answers) - expected).square().mean()
    assert after < 0.8 * before


def test_it_learns_on_from_there(target: Any, answers: list[Answer]) -> None:
    from deployments.models.distill.lens import look_through  # noqa: PLC0415 - takes seconds

    draft = draft_with(target, 1)
    look_through(draft, target, answers, seed=0, progress=SILENT)
    assert draft.lm_head.weight.requires_grad and draft.lm_head.weight.is_leaf
    assert draft.lm_head.weight.shape == (len(IDS), target.config.hidden_size)
