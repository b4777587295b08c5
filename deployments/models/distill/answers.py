"""What the target said, with its own distribution at each token; kept in files as it comes.

One file for each batch of prompts, which appears whole: a killed process loses the
batch that it was at.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Answer:
    """One prompt and what was said.

    Shapes: `prompt` [num_prompt_tokens], `said` [num_answer_tokens]; `top_ids` and
    `top_logprobs` [num_answer_tokens, top_k], the most probable tokens in the place of
    each that was said, descending.
    """

    prompt: Ids
    said: Ids
    top_ids: Ids
    top_logprobs: npt.NDArray[np.float16]

    @property
    def tokens(self) -> Ids:
        """The prompt, and what was said. Shape: [num_prompt_tokens + num_answer_tokens]."""
        return np.concatenate([self.prompt, self.said])


@dataclass(frozen=True)
class AnsweredBatch:
    """Answers to prompts of one task, and how long they took."""

    task: str
    is_held_out: bool
    duration_s: float
    answers: list[Answer]

    def save(self, path: Path) -> None:
        """Write it so that no reader ever sees half of it."""
        partial = path.with_suffix(".partial")
        flat = {
            name: np.concatenate([getattr(answer, name) for answer in self.answers])
            for name in ("prompt", "said", "top_ids", "top_logprobs")
        }
        with partial.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                task=np.array(self.task),
                is_held_out=np.array(self.is_held_out),
                duration_s=np.array(self.duration_s),
                prompt_lengths=np.array([len(answer.prompt) for answer in self.answers]),
                said_lengths=np.array([len(answer.said) for answer in self.answers]),
                **flat,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "AnsweredBatch":
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        prompt_ends = np.cumsum(arrays["prompt_lengths"])[:-1]
        said_ends = np.cumsum(arrays["said_lengths"])[:-1]
        parts = zip(
            np.split(arrays["prompt"], prompt_ends),
            np.split(arrays["said"], said_ends),
            np.split(arrays["top_ids"], said_ends),
            np.split(arrays["top_logprobs"], said_ends),
            strict=True,
        )
        return cls(
            str(arrays["task"]),
            bool(arrays["is_held_out"]),
            float(arrays["duration_s"]),
            [Answer(*part) for part in parts],
        )


class AnswerFiles:
    """The batches in a directory, by their number in the plan."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)

    def path(self, number: int) -> Path:
        """Where that batch is, or will be."""
        return self._directory / f"{number:05}.npz"

    def batches(self) -> Iterator[AnsweredBatch]:
        """All that are there, in order."""
        for path in self._paths():
            yield AnsweredBatch.load(path)

    def sha256(self) -> str:
        """Of all batches, in order."""
        digest = hashlib.sha256()
        for path in self._paths():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.npz"))
