"""Which prompts are answered together, and in which order.

Prompts of one task go together. Held-out batches come first; then
tasks take turns, chat five times as often as each other one, whose drafts are mostly
found in the prompt itself. Prompts of similar length go together.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.models.distill.prompts import Prompt

# Places of the caches: 47 kB each with SmolLM2-135M.
_BATCH_PLACES = 56_000
_BATCH_PROMPTS = 96
_TURNS = {"chat": 5}
# Among which those of similar length are put together: the caches are as wide as the longest.
_WINDOW = 384


@dataclass(frozen=True)
class Encoded:
    """A prompt as the target reads it."""

    task: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class AskedBatch:
    """Prompts that are answered together."""

    task: str
    is_held_out: bool
    prompts: tuple[tuple[int, ...], ...]


def encode(tokenizer: Any, prompts: Sequence[Prompt], most: int) -> list[Encoded]:
    """As the tokenizer's chat template has them, if it has one; none of over `most` tokens."""
    if not prompts:
        return []
    texts = [prompt.text for prompt in prompts]
    if tokenizer.chat_template:
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in texts
        ]
    encoded = tokenizer(texts, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return [
        Encoded(prompt.task, tuple(ids))
        for prompt, ids in zip(prompts, encoded, strict=True)
        if 1 <= len(ids) <= most
    ]


def plan_batches(
    training: list[Encoded], held_out: list[Encoded], num_new: int
) -> list[AskedBatch]:
    """All prompts, in the order in which they are to be answered."""
    tasks = list(dict.fromkeys(prompt.task for prompt in held_out + training))
    planned: list[AskedBatch] = []
    waiting: dict[str, deque[AskedBatch]] = {}
    for task in tasks:
        kept = [prompt.tokens for prompt in held_out if prompt.task == task]
        planned += _batches(task, kept, num_new, is_held_out=True)
        asked = [prompt.tokens for prompt in training if prompt.task == task]
        waiting[task] = deque(_batches(task, asked, num_new, is_held_out=False))
    while any(waiting.values()):
        for turn in range(max(_TURNS.values())):
            for task, batches in waiting.items():
                if batches and turn < _TURNS.get(task, 1):
                    planned.append(batches.popleft())
    return planned


def _batches(
    task: str, prompts: list[tuple[int, ...]], num_new: int, *, is_held_out: bool
) -> Iterator[AskedBatch]:
    """As many as there is room for at a time, nearly in their order."""
    batch: list[tuple[int, ...]] = []
    windows = (prompts[start : start + _WINDOW] for start in range(0, len(prompts), _WINDOW))
    for prompt in (prompt for window in windows for prompt in sorted(window, key=len)):
        longest = max(map(len, [*batch, prompt])) + num_new
        is_full = len(batch) == _BATCH_PROMPTS
        if batch and (is_full or (len(batch) + 1) * longest > _BATCH_PLACES):
            yield AskedBatch(task, is_held_out, tuple(batch))
            batch = []
        batch.append(prompt)
    if batch:
        yield AskedBatch(task, is_held_out, tuple(batch))
