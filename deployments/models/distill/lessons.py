"""Answers cut into training steps: which go together, and as which arrays."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deployments.models.distill.answers import Answer
from deployments.models.distill.vocabulary import Integers

# Answers among which those of similar length are put together.
_WINDOW = 256


@dataclass(frozen=True)
class Lesson:
    """One step's worth of text.

    Shapes: `tokens` [num_sequences, length], padded on the right; `places` [num_said], of
    the tokens flattened, behind which one was said; `rows` and `shares`
    [num_said, top_k]: what the target would say there, as rows of the draft's head
    and probabilities that sum to one (or to zero where the draft can say none of them);
    `said` [num_said], rows of what it did say, -1 where there is none.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    rows: torch.Tensor
    shares: torch.Tensor
    said: torch.Tensor


def lesson_of(answers: Sequence[Answer], id_to_row: Integers) -> Lesson:
    """Those answers side by side, for a draft with these rows."""
    length = max(len(answer.prompt) + len(answer.said) for answer in answers) - 1
    tokens = np.zeros((len(answers), length), dtype=np.int64)
    places = []
    for row, answer in enumerate(answers):
        text = answer.tokens[:-1]
        tokens[row, : len(text)] = text
        places.append(np.arange(len(answer.prompt) - 1, len(text)) + row * length)
    rows = id_to_row[np.concatenate([answer.top_ids for answer in answers])]
    logprobs = np.concatenate([answer.top_logprobs for answer in answers])
    shares = np.where(rows < 0, 0.0, np.exp(logprobs.astype(np.float32)))
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-6)
    said = id_to_row[np.concatenate([answer.said for answer in answers])]
    return Lesson(
        torch.from_numpy(tokens),
        torch.from_numpy(np.concatenate(places)),
        torch.from_numpy(np.maximum(rows, 0)),
        torch.from_numpy(shares.astype(np.float32)),
        torch.from_numpy(said),
    )


def plan_epoch(lengths: Sequence[int], step_tokens: int, seed: int) -> list[list[int]]:
    """Which answers, by number, go into each step of an epoch.

    Each once; at most `step_tokens` tokens with their padding, but at least one answer.
    """
    chosen = random.Random(seed)
    order = list(range(len(lengths)))
    chosen.shuffle(order)
    steps: list[list[int]] = []
    for start in range(0, len(order), _WINDOW):
        near = sorted(order[start : start + _WINDOW], key=lambda number: lengths[number])
        step: list[int] = []
        for number in near:
            if step and lengths[number] * (len(step) + 1) > step_tokens:
                steps.append(step)
                step = []
            step.append(number)
        steps.append(step)
    chosen.shuffle(steps)
    return steps
