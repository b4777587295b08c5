"""A draft made of a target: its answers, its training, and how often it is right.

Memory with SmolLM2-135M: 0.6 GB for the target, 2.6 GB for the caches of a batch of
answers, and 1 GB while the draft learns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from deployments.models.atomic import write_json
from deployments.models.distill.acceptance import NUM_BEGINNING_TOKENS, measure_acceptance
from deployments.models.distill.answering import Answering
from deployments.models.distill.answers import Answer, AnsweredBatch, AnswerFiles
from deployments.models.distill.asking import Encoded, encode, plan_batches
from deployments.models.distill.draft import draft_of, write_draft
from deployments.models.distill.lens import look_through
from deployments.models.distill.llama import load_llama
from deployments.models.distill.prompts import Prompts
from deployments.models.distill.report import REPORT_NAME, Acceptance, DistillReport
from deployments.models.distill.rounded import in_8_bits
from deployments.models.distill.settings import (
    ANSWERING_PART,
    TRAINING_PART,
    DistillSettings,
    check_vocabulary,
    layers_of,
)
from deployments.models.distill.training import Training
from deployments.models.distill.vocabulary import Integers, coverage, likeliest, rows_of
from deployments.models.products import has_int8
from infra.errors import ConfigError
from infra.progress import Progress


@dataclass(frozen=True)
class Trained:
    """A draft, the tokens that it can say, and how it learned."""

    draft: Any
    ids: Integers
    training: Training


class Distillation:
    """One draft in the making; `place` has what was done so far.

    Raises `ConfigError` if no such draft can be made of the target.
    """

    def __init__(
        self, source: Path, place: Path, settings: DistillSettings, progress: Progress
    ) -> None:
        self._source = source
        self._place = place
        self._settings = settings
        self._progress = progress
        progress.report("reading the target", None)
        self._target = load_llama(source)
        self._layers = layers_of(settings, self._target.config.num_hidden_layers)
        check_vocabulary(settings, self._target.config.vocab_size)
        self._files = AnswerFiles(place / "answers")

    def ask(self, prompts: Prompts) -> None:
        """Let the target answer until the time for that is over or nothing is left to ask.

        At least one batch to be trained on, and all that is held out.
        """
        num_new = self._settings.max_answer_tokens
        exact = Answering(self._target, self._settings)
        in_bulk = Answering(in_8_bits(self._target), self._settings) if has_int8() else exact
        budget_s = self._settings.minutes * 60 * ANSWERING_PART
        done = list(self._files.batches())
        spent_s = sum(batch.duration_s for batch in done)
        is_enough = any(not batch.is_held_out for batch in done)
        for number, batch in enumerate(plan_batches(*self._encoded(prompts), num_new)):
            if self._files.path(number).exists():
                continue
            if spent_s >= budget_s and is_enough:
                break
            self._progress.report(f"answers: {batch.task}", min(spent_s / budget_s, 1.0))
            answering = exact if batch.is_held_out else in_bulk
            answered = answering.answer(batch, number)
            answered.save(self._files.path(number))
            spent_s += answered.duration_s
            is_enough |= not batch.is_held_out

    def train(self) -> Trained:
        """Train on all answers that are there."""
        answers = [
            answer
            for batch in self._files.batches()
            if not batch.is_held_out
            for answer in batch.answers
        ]
        num_tokens = self._target.config.vocab_size
        ids = likeliest(answers, self._settings.vocabulary, num_tokens)
        draft = draft_of(self._target, self._layers, ids)
        state = self._place / "training.pt"
        if not state.exists():
            look_through(draft, self._target, answers, self._settings.seed, self._progress)
        budget_s = self._settings.minutes * 60 * TRAINING_PART
        training = Training(draft, self._settings, budget_s, state)
        training.run(answers, rows_of(ids, num_tokens), self._progress)
        return Trained(draft, ids, training)

    def finish(self, trained: Trained, target: Path, prompts: str) -> DistillReport:
        """Measure the draft and fill the empty directory `target`."""
        batches = list(self._files.batches())
        held_out = _by_task(batch for batch in batches if batch.is_held_out)
        answers = _by_task(batch for batch in batches if not batch.is_held_out)
        training = trained.training
        report = DistillReport(
            source=self._source.name,
            versions={name: version(name) for name in ("torch", "transformers")},
            settings=self._settings,
            layers=self._layers,
            prompts=prompts,
            answers_sha256=self._files.sha256(),
            num_answers={task: len(found) for task, found in answers.items()},
            num_answer_tokens=_num_tokens(answers),
            num_held_out_tokens=_num_tokens(held_out),
            num_steps=training.step,
            num_trained_tokens=training.num_tokens,
            losses=training.mean_losses(),
            answering_s=round(sum(batch.duration_s for batch in batches), 1),
            training_s=round(training.elapsed_s, 1),
            coverage={task: coverage(a, trained.ids) for task, a in held_out.items()},
            acceptance=self._accept(trained, held_out),
            beginnings=self._accept(trained, held_out, NUM_BEGINNING_TOKENS),
        )
        write_draft(trained.draft, trained.ids, self._source, target)
        write_json(target / REPORT_NAME, asdict(report))
        return report

    def _accept(
        self,
        trained: Trained,
        held_out: Mapping[str, Sequence[Answer]],
        num_tokens: int | None = None,
    ) -> dict[str, Acceptance]:
        """By task, in so many first tokens of each answer; None is all."""
        found = {}
        for task, answers in held_out.items():
            self._progress.report(f"measuring the acceptance: {task}", None)
            draft, seed = trained.draft, self._settings.seed
            found[task] = measure_acceptance(draft, answers, trained.ids, seed, num_tokens)
        return found

    def _encoded(self, prompts: Prompts) -> tuple[list[Encoded], list[Encoded]]:
        """Those to train on and those held out, that leave room for an answer."""
        tokenizer = AutoTokenizer.from_pretrained(self._source)
        config = self._target.config
        most = config.max_position_embeddings - self._settings.max_answer_tokens
        training = encode(tokenizer, prompts.training, most)
        if not training:
            raise ConfigError(
                f"no prompt leaves room for {self._settings.max_answer_tokens} tokens of an "
                f"answer in the target's {config.max_position_embeddings}"
            )
        return training, encode(tokenizer, prompts.held_out, most)


def _by_task(batches: Iterable[AnsweredBatch]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for batch in batches:
        found.setdefault(batch.task, []).extend(batch.answers)
    return found


def _num_tokens(answers: Mapping[str, list[Answer]]) -> dict[str, int]:
    return {task: sum(len(a.said) for a in found) for task, found in answers.items()}
