from typing import Any

import numpy as np
import pytest

from deployments.models.distill.asking import AskedBatch
from tests.deployments.models.carve.tiny_llama import write_tiny_llama
from tests.deployments.models.distill.builders import settings

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

PROMPTS = ((5, 6, 7), (9,), (5, 6, 7, 8, 9))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from deployments.models.distill.llama import load_llama  # noqa: PLC0415 - takes seconds

    return load_llama(write_tiny_llama(tmp_path_factory.mktemp("target") / "tiny"))


def said(target: Any, number: int = 0, *, is_held_out: bool = False, **changes: Any) -> Any:
    from deployments.models.distill.answering import Answering  # noqa: PLC0415

    batch = AskedBatch("chat", is_held_out, PROMPTS)
    return Answering(target, settings(**changes)).answer(batch, number).answers


def test_held_out_answers_are_the_targets_most_probable_tokens(target: Any) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    for answer in said(target, is_held_out=True, sampled_part=1.0):
        expected = target.generate(
            torch.from_numpy(answer.prompt)[None].long(), max_new_tokens=12, do_sample=False
        )[0, len(answer.prompt) :]
        assert answer.said.tolist() == expected.tolist()
        assert answer.top_ids[:, 0].tolist() == answer.said.tolist()


def test_an_answer_ends_with_the_end_token_which_is_part_of_it(target: Any) -> None:
    first = said(target, is_held_out=True)[0].said.tolist()
    end = first[4]
    original = target.generation_config.eos_token_id
    try:
        target.generation_config.eos_token_id = [end]
        ended = said(target, is_held_out=True)
    finally:
        target.generation_config.eos_token_id = original
    assert ended[0].said.tolist() == first[: first.index(end) + 1]
    assert all(end not in answer.said[:-1].tolist() for answer in ended)


def test_the_targets_distribution_is_kept_at_every_token(target: Any) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    answer = said(target)[2]
    with torch.no_grad():
        logits = target(torch.from_numpy(answer.tokens[:-1])[None].long()).logits
    logprobs = logits[0, len(answer.prompt) - 1 :].log_softmax(-1)
    assert answer.top_ids.shape == answer.top_logprobs.shape == (len(answer.said), 8)
    kept = logprobs.gather(1, torch.from_numpy(answer.top_ids).long()).numpy()
    assert np.abs(kept - answer.top_logprobs).max() < 1e-2
    assert np.abs(kept - logprobs.topk(8).values.numpy()).max() < 1e-3


def test_samples_are_the_same_for_the_same_number_alone(target: Any) -> None:
    runs = [
        [answer.said.tolist() for answer in said(target, number, sampled_part=1.0)]
        for number in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
