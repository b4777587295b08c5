"""What the target is asked: some prompts to be trained on, some held out.

What a held-out prompt is about (a subject, a function, a paragraph) is in no prompt that
is trained on.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.models.distill.stdlib_text import functions_and_paragraphs
from deployments.models.distill.subjects import QUESTIONS, SUBJECTS
from infra.errors import ConfigError

_CODE = (
    "Rename the function to `{name}` and write out the whole code.",
    "Give this function the name `{name}` and show the complete code.",
    "Add a docstring to this function and write it out.",
    "Write this function again with a comment above its first line.",
    "Repeat this code without any change.",
    "Add type annotations to this function.",
    "Find the mistake in this function, if there is one, and write the function out.",
)
_NAMES = ("renamed", "run", "helper", "process", "compute", "new_name", "handle", "update")
_EXTRACTION = (
    "List the sentences of this text, one to a line.",
    "Write the sentences of this text word for word, each on its own line.",
    "Quote the most important sentence of this text.",
    "Copy the first two sentences of this text.",
    "Repeat this text word for word.",
    "Number the sentences of this text.",
)
# Of a task: more than are answered in two hours.
_MOST_PROMPTS = 4000
_FEWEST = 8


@dataclass(frozen=True)
class Prompt:
    """A message, and the kind of work that it asks for."""

    task: str
    text: str


@dataclass(frozen=True)
class Prompts:
    """In the order in which the target is asked, each task by itself."""

    origin: str
    training: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]

    def sha256(self) -> str:
        """Of all of them, in order."""
        texts = [[prompt.task, prompt.text] for prompt in self.held_out + self.training]
        return hashlib.sha256(json.dumps([len(self.held_out), texts]).encode()).hexdigest()


def default_prompts(seed: int, num_held_out: int) -> Prompts:
    """Questions, functions to be edited and paragraphs to be quoted, mixed by `seed`.

    `num_held_out` prompts of each task are held out.
    """
    chosen = random.Random(seed)
    functions, paragraphs = functions_and_paragraphs()
    training: list[Prompt] = []
    held_out: list[Prompt] = []
    for task, asks, things in (
        ("chat", QUESTIONS, list(SUBJECTS)),
        ("code", [f"{ask}\n\n```python\n{{}}\n```" for ask in _CODE], functions),
        ("extraction", [f"{ask}\n\n{{}}" for ask in _EXTRACTION], paragraphs),
    ):
        chosen.shuffle(things)
        kept = _asked(things[:num_held_out], asks, chosen)[:num_held_out]
        trained = _asked(things[num_held_out:], asks, chosen)[:_MOST_PROMPTS]
        held_out += [Prompt(task, text) for text in kept]
        training += [Prompt(task, text) for text in trained]
    origin = "questions, and code and docstrings of Python's standard library"
    return Prompts(origin, tuple(training), tuple(held_out))


def file_prompts(path: Path, seed: int, num_held_out: int) -> Prompts:
    """Those of a file: paragraphs where it has empty lines, else lines.

    At most a quarter of them is held out. Raises `ConfigError` if the file cannot be read
    as UTF-8, or has fewer than eight.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts {path}: {error}") from error
    parts = text.split("\n\n") if "\n\n" in text.strip() else text.split("\n")
    found = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(found) < _FEWEST:
        raise ConfigError(
            f"{path} has {len(found)} different prompts, one to a line or with empty lines "
            f"between them; at least {_FEWEST} are needed, and hundreds make a good draft"
        )
    random.Random(seed).shuffle(found)
    prompts = tuple(Prompt("prompts", text) for text in found)
    num_held_out = min(num_held_out, len(found) // 4)
    return Prompts(path.name, prompts[num_held_out:], prompts[:num_held_out])


def _asked(things: Sequence[str], asks: Sequence[str], chosen: random.Random) -> list[str]:
    """Every thing in every way: first each thing in one way, then each in another."""
    ways = [chosen.sample(asks, len(asks)) for _ in things]
    asked = []
    for turn in range(len(asks)):
        for thing, order in zip(things, ways, strict=True):
            ask = order[turn].replace("{name}", chosen.choice(_NAMES))
            asked.append(ask.replace("{}", thing))
    return asked
