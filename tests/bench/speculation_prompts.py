"""Prompts for `tests.bench.speculation`: questions, code to be edited, text to extract from.

The questions are ours; the code is functions of Python's standard library; the text is of
Python's language reference. Every machine has the same.
"""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

_SUBJECTS = (
    *("the tides", "a rainbow", "an earthquake", "photosynthesis", "the seasons", "a volcano"),
    *(
        "how bread rises",
        "how a bicycle stays upright",
        "how vaccines work",
        "how bees navigate",
    ),
    *("the water cycle", "gravity", "inflation", "a solar eclipse", "how to learn a language"),
    *(
        "how to sleep better",
        "how to plant tomatoes",
        "how to brew tea",
        "how to write a letter",
    ),
    *("the Roman Empire", "the printing press", "the Silk Road", "the Renaissance"),
    *("the French Revolution", "a black hole", "the Moon", "the Milky Way", "DNA", "the heart"),
    *("an electric motor", "a compass", "a submarine"),
)
_CHARS = (300, 1400)
NUM_PROMPTS = 32


def chat() -> list[str]:
    """Questions whose answers are in none of their words."""
    return [f"Explain {subject} to a curious friend." for subject in _SUBJECTS]


def code() -> list[str]:
    """Functions with one thing to change, to be written out whole."""
    ask = "Rename the function to `renamed` and give back the whole code."
    return [f"{ask}\n\n```python\n{text}```" for text in _functions()[:NUM_PROMPTS]]


def extraction() -> list[str]:
    """Paragraphs whose sentences are asked for."""
    return [
        f"List the sentences of this text, one to a line, word for word.\n\n{text}"
        for text in _paragraphs()[:NUM_PROMPTS]
    ]


TASKS: dict[str, Callable[[], list[str]]] = {
    "chat": chat,
    "code": code,
    "extraction": extraction,
}


def as_token_ids(model: Path, texts: list[str]) -> list[list[int]]:
    """Each as the user's message, in the model's own template."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

    tokenizer = AutoTokenizer.from_pretrained(model)
    return [
        tokenizer.encode(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )
        for text in texts
    ]


def _fits(text: str) -> bool:
    return _CHARS[0] <= len(text) <= _CHARS[1]


def _functions() -> list[str]:
    import bisect  # noqa: PLC0415
    import calendar  # noqa: PLC0415
    import colorsys  # noqa: PLC0415
    import difflib  # noqa: PLC0415
    import fnmatch  # noqa: PLC0415
    import glob  # noqa: PLC0415
    import heapq  # noqa: PLC0415
    import random  # noqa: PLC0415
    import shlex  # noqa: PLC0415
    import shutil  # noqa: PLC0415
    import statistics  # noqa: PLC0415

    modules: list[ModuleType] = [
        *(bisect, calendar, colorsys, difflib, fnmatch, glob, heapq),
        *(random, shlex, shutil, statistics, textwrap),
    ]
    found = []
    for module in modules:
        for _, function in sorted(inspect.getmembers(module, inspect.isfunction)):
            if function.__module__ == module.__name__:
                text = inspect.getsource(function)
                if _fits(text):
                    found.append(text)
    return found


def _paragraphs() -> list[str]:
    from deployments.models.carve.texts import default_texts  # noqa: PLC0415

    texts = default_texts(0)
    paragraphs = f"{texts.held_out}\n\n{texts.calibration}".split("\n\n")
    found = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return [text for text in found if _fits(text) and text.count(". ") >= 3]
