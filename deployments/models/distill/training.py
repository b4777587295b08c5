"""The draft learns what the target would say, and its state is saved now and then."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from deployments.models.distill.answers import Answer
from deployments.models.distill.draft import trainable_state
from deployments.models.distill.lessons import Lesson, lesson_of, plan_epoch
from deployments.models.distill.settings import DistillSettings
from deployments.models.distill.vocabulary import Integers
from infra.progress import Progress

_SAVE_INTERVAL_S = 60.0
_WARM_UP_PART = 0.04
_LAST_RATE_PART = 0.03
_MAX_GRADIENT = 1.0
_LOSSES_KEPT = 20


class Training:
    """One draft's training, which goes on from the file `state` if there is one.

    With a number of steps in the settings, an interrupted training gives the same
    weights as an uninterrupted one; without, it lasts `budget_s` all in all.
    """

    def __init__(
        self,
        draft: Any,
        settings: DistillSettings,
        budget_s: float,
        state: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draft = draft
        self._settings = settings
        self._budget_s = budget_s
        self._state = state
        self._clock = clock
        parameters = [p for p in draft.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            parameters, settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        self.step = 0
        self.num_tokens = 0
        self.elapsed_s = 0.0
        self.losses: list[float] = []  # of each step
        if state.exists():
            self._load()

    def run(self, answers: Sequence[Answer], id_to_row: Integers, progress: Progress) -> None:
        """Train to the end.

        What ends it earlier loses a minute at most: a state is saved between two steps
        alone, where it is whole.
        """
        saved_at = last = self._clock()
        for lesson in self._lessons(answers, id_to_row):
            progress.report(self._words(), self._fraction())
            self.losses.append(self._learn(lesson))
            self.step += 1
            self.num_tokens += len(lesson.places)
            moment = self._clock()
            self.elapsed_s += moment - last
            last = moment
            if moment - saved_at >= _SAVE_INTERVAL_S:
                self._save()
                saved_at = moment
        self._save()

    def mean_losses(self) -> list[float]:
        """Of up to 20 equal parts of the steps, in order."""
        size = max(1, math.ceil(len(self.losses) / _LOSSES_KEPT))
        parts = [self.losses[at : at + size] for at in range(0, len(self.losses), size)]
        return [round(sum(part) / len(part), 4) for part in parts]

    def _lessons(self, answers: Sequence[Answer], id_to_row: Integers) -> Iterator[Lesson]:
        lengths = [len(answer.prompt) + len(answer.said) for answer in answers]
        epoch, first = 0, 0
        while True:
            seed = self._settings.seed * 1000 + epoch
            steps = plan_epoch(lengths, self._settings.step_tokens, seed)
            for number in range(max(self.step - first, 0), len(steps)):
                if self._fraction() >= 1.0:
                    return
                yield lesson_of([answers[index] for index in steps[number]], id_to_row)
            epoch, first = epoch + 1, first + len(steps)

    def _fraction(self) -> float:
        if self._settings.num_steps is None:
            return min(self.elapsed_s / self._budget_s, 1.0)
        return self.step / self._settings.num_steps if self._settings.num_steps else 1.0

    def _words(self) -> str:
        recent = self.losses[-50:] or [math.nan]
        return f"training, step {self.step}, loss {sum(recent) / len(recent):.3f}"

    def _learn(self, lesson: Lesson) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * rate_part(self._fraction())
        self._optimizer.zero_grad()
        loss = loss_of(self._draft, lesson, self._settings.said_weight)
        loss.backward()
        parameters = [p for p in self._draft.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT)
        self._optimizer.step()
        return float(loss.detach())

    def _save(self) -> None:
        partial = self._state.with_suffix(".partial")
        value = {
            "weights": trainable_state(self._draft),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "num_tokens": self.num_tokens,
            "elapsed_s": self.elapsed_s,
            "losses": self.losses,
        }
        with partial.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._state)

    def _load(self) -> None:
        value = torch.load(self._state, weights_only=True)
        self._draft.load_state_dict(value["weights"], strict=False)
        self._optimizer.load_state_dict(value["optimizer"])
        self.step, self.num_tokens = value["step"], value["num_tokens"]
        self.elapsed_s, self.losses = value["elapsed_s"], value["losses"]


def rate_part(fraction: float) -> float:
    """Part of the learning rate that is used after this part of the training."""
    if fraction < _WARM_UP_PART:
        return max(fraction / _WARM_UP_PART, 0.02)
    done = min((fraction - _WARM_UP_PART) / (1 - _WARM_UP_PART), 1.0)
    return _LAST_RATE_PART + (1 - _LAST_RATE_PART) * (1 + math.cos(math.pi * done)) / 2


def loss_of(draft: Any, lesson: Lesson, said_weight: float) -> torch.Tensor:
    """Divergence from the target's shares, plus the weighted cross-entropy of what it said.

    Mean over the places, in nats.
    """
    hidden = draft.model(input_ids=lesson.tokens, use_cache=False).last_hidden_state
    logits = draft.lm_head(hidden.flatten(0, 1)[lesson.places])
    logprobs = logits.log_softmax(-1)
    of_top = logprobs.gather(1, lesson.rows)
    entropy = torch.special.entr(lesson.shares).sum(1)
    divergence = -(lesson.shares * of_top).sum(1) - entropy
    said = cross_entropy(logits, lesson.said, ignore_index=-1, reduction="sum")
    loss: torch.Tensor = divergence.mean() + said_weight * said / len(lesson.said)
    return loss
