"""Answers without a model, and settings that suit the tiny ones."""

from typing import Any

import numpy as np

from deployments.models.distill.answers import Answer, AnsweredBatch
from deployments.models.distill.settings import DistillSettings

SETTINGS: dict[str, Any] = {
    "num_layers": 1,
    "vocabulary": 40,
    "minutes": 1.0,
    "num_steps": 6,
    "max_answer_tokens": 12,
    "num_held_out": 3,
    "top_k": 8,
    "step_tokens": 256,
}


def settings(**changes: Any) -> DistillSettings:
    """A layer, 40 tokens and six short steps, but for the changes."""
    return DistillSettings(**(SETTINGS | changes))


def answer(prompt: list[int], said: list[int], others: tuple[int, ...] = (0,)) -> Answer:
    """The target gives 0.75 to each token said, and the rest to `others` evenly."""
    rest = [0.25 / len(others)] * len(others)
    return Answer(
        prompt=np.array(prompt, dtype=np.int32),
        said=np.array(said, dtype=np.int32),
        top_ids=np.array([[token, *others] for token in said], dtype=np.int32),
        top_logprobs=np.log(np.array([[0.75, *rest]] * len(said))).astype(np.float16),
    )


def batch(*answers: Answer, task: str = "chat", is_held_out: bool = False) -> AnsweredBatch:
    """Answered in two seconds."""
    return AnsweredBatch(task, is_held_out, 2.0, list(answers))
