"""The target answers batches of prompts, and its distribution at each token is kept."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deployments.models.distill.answers import Answer, AnsweredBatch
from deployments.models.distill.asking import AskedBatch
from deployments.models.distill.settings import DistillSettings
from deployments.models.distill.speaker import Speaker

# Sequences that have ended are computed on with until this part of them has.
_ENDED_PART = 0.125


class Answering:
    """Answers whole batches; the same batch with the same number gets the same answers."""

    def __init__(self, model: Any, settings: DistillSettings) -> None:
        self._model = model
        self._end_ids = torch.tensor(_end_ids(model), dtype=torch.long)
        self._settings = settings

    def answer(self, batch: AskedBatch, number: int) -> AnsweredBatch:
        """What the target says: mostly its most probable tokens, at times a sample.

        To held-out prompts always the most probable ones.
        """
        started = time.monotonic()
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + number)
        chance = torch.rand(len(batch.prompts), generator=generator)
        is_sampled = chance < (0.0 if batch.is_held_out else self._settings.sampled_part)
        with torch.inference_mode():
            answers = self._speak(batch.prompts, is_sampled, generator)
        duration_s = time.monotonic() - started
        return AnsweredBatch(batch.task, batch.is_held_out, duration_s, answers)

    def _speak(
        self,
        prompts: Sequence[tuple[int, ...]],
        is_sampled: torch.Tensor,
        generator: torch.Generator,
    ) -> list[Answer]:
        num_new = self._settings.max_answer_tokens
        speaker = Speaker(self._model, [list(prompt) for prompt in prompts], num_new)
        records = [_Record(prompt) for prompt in prompts]
        alive = torch.arange(len(prompts))  # row of the speaker -> number of the prompt
        has_ended = torch.zeros(len(prompts), dtype=torch.bool)
        logits = speaker.begin()
        for step in range(num_new):
            top = logits.log_softmax(-1).topk(min(self._settings.top_k, logits.shape[1]))
            said = self._choose(logits, top.indices, is_sampled[alive], generator)
            for row in (~has_ended[alive]).nonzero().flatten().tolist():
                record = records[int(alive[row])]
                record.add(int(said[row]), top.indices[row], top.values[row])
            has_ended[alive] |= torch.isin(said, self._end_ids)
            ended_part = float(has_ended[alive].float().mean())
            if ended_part == 1.0 or step == num_new - 1:
                break
            logits = speaker.step(said)
            if ended_part > _ENDED_PART:
                rows = (~has_ended[alive]).nonzero().flatten()
                speaker.keep(rows)
                alive, logits = alive[rows], logits[rows]
        return [record.answer() for record in records]

    def _choose(
        self,
        logits: torch.Tensor,
        top_ids: torch.Tensor,
        is_sampled: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """The next token of each row. Shape: [num_rows]."""
        if not is_sampled.any():
            return top_ids[:, 0]
        shares = (logits.gather(1, top_ids) / self._settings.temperature).softmax(-1)
        drawn = torch.multinomial(shares, 1, generator=generator)
        chosen = torch.where(is_sampled[:, None], drawn, torch.zeros_like(drawn))
        return top_ids.gather(1, chosen)[:, 0]


class _Record:
    """An answer while it grows."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self._prompt = prompt
        self._said: list[int] = []
        self._top_ids: list[torch.Tensor] = []
        self._top_logprobs: list[torch.Tensor] = []

    def add(self, said: int, top_ids: torch.Tensor, top_logprobs: torch.Tensor) -> None:
        self._said.append(said)
        self._top_ids.append(top_ids)
        self._top_logprobs.append(top_logprobs)

    def answer(self) -> Answer:
        return Answer(
            prompt=np.array(self._prompt, dtype=np.int32),
            said=np.array(self._said, dtype=np.int32),
            top_ids=torch.stack(self._top_ids).numpy().astype(np.int32),
            top_logprobs=torch.stack(self._top_logprobs).numpy().astype(np.float16),
        )


def _end_ids(model: Any) -> list[int]:
    """Tokens that end an answer."""
    found = model.generation_config.eos_token_id
    found = model.config.eos_token_id if found is None else found
    return [found] if isinstance(found, int) else list(found or [])
