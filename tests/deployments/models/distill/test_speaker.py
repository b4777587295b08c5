"""Caches, padding and grouped heads against transformers, which recomputes everything."""

from typing import Any

import pytest

from tests.deployments.models.carve.tiny_llama import write_tiny_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

TEXTS = [[5, 6, 7], [9], [5, 6, 7, 8, 9, 10, 11]]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from deployments.models.distill.llama import load_llama  # noqa: PLC0415 - takes seconds

    folder = tmp_path_factory.mktemp("target") / "tiny"
    return load_llama(write_tiny_llama(folder, model_type=request.param))


def recomputed(target: Any, texts: list[list[int]]) -> Any:
    """Logits behind each text, of one at a time. Shape: [num_texts, vocab_size]."""
    import torch  # noqa: PLC0415 - takes seconds

    with torch.no_grad():
        return torch.stack([target(torch.tensor([text])).logits[0, -1] for text in texts])


def test_texts_of_different_lengths_are_read_as_each_by_itself(target: Any) -> None:
    from deployments.models.distill.speaker import Speaker  # noqa: PLC0415 - takes seconds

    found = Speaker(target, TEXTS, num_new=1).begin()
    assert (found - recomputed(target, TEXTS)).abs().max() < 1e-4


def test_a_step_adds_a_token_to_each_and_some_may_be_left_behind(target: Any) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    from deployments.models.distill.speaker import Speaker  # noqa: PLC0415

    with torch.inference_mode():
        speaker = Speaker(target, TEXTS, num_new=3)
        speaker.begin()
        first = speaker.step(torch.tensor([1, 2, 3]))
        texts = [[*text, token] for text, token in zip(TEXTS, (1, 2, 3), strict=True)]
        assert (first - recomputed(target, texts)).abs().max() < 1e-4
        speaker.keep(torch.tensor([0, 2]))
        second = speaker.step(torch.tensor([4, 5]))
    texts = [[*texts[0], 4], [*texts[2], 5]]
    assert (second - recomputed(target, texts)).abs().max() < 1e-4
