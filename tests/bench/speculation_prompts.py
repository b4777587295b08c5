"""Prompts for `tests.bench.speculation`: questions, code to be edited, text to extract from.

The questions are ours; the code is functions of Python's standard library; the text is of
Python's language reference. Every machine has the same.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

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
_QUESTIONS = (
    *("Explain {} to a curious friend.", "What is most surprising about {}?"),
    *("Write a short story about {}.", "Give three facts about {}.", "Why does {} matter?"),
    *("What do people get wrong about {}?", "Write a poem about {}."),
    *("How would a teacher introduce {}?", "What would the world be without {}?"),
    "Which questions about {} are still open?",
)
# Those of which the standard library has many functions of their own.
_MODULES = (
    *("argparse", "ast", "base64", "bisect", "calendar", "colorsys", "configparser", "copy"),
    *("datetime", "difflib", "dis", "doctest", "filecmp", "fnmatch", "functools", "getopt"),
    *("gettext", "glob", "heapq", "inspect", "ipaddress", "locale", "logging", "mimetypes"),
    *("ntpath", "optparse", "os", "pickle", "pickletools", "posixpath", "pprint", "pstats"),
    *("pyclbr", "pydoc", "random", "shlex", "shutil", "socket", "statistics", "subprocess"),
    *("tarfile", "tempfile", "textwrap", "timeit", "tokenize", "trace", "traceback", "types"),
    *("typing", "uuid", "warnings", "webbrowser"),
)
_CHARS = (200, 1400)


def chat() -> list[str]:
    """Questions whose answers are in none of their words."""
    return [ask.format(subject) for ask in _QUESTIONS for subject in _SUBJECTS]


def code() -> list[str]:
    """Functions with one thing to change, to be written out whole."""
    ask = "Rename the function to `renamed` and give back the whole code."
    return [f"{ask}\n\n```python\n{text}```" for text in _functions()]


def extraction() -> list[str]:
    """Paragraphs whose sentences are asked for."""
    ask = "List the sentences of this text, one to a line, word for word."
    return [f"{ask}\n\n{text}" for text in _paragraphs()]


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
    found = []
    for name in _MODULES:
        module = importlib.import_module(name)
        for _, function in sorted(inspect.getmembers(module, inspect.isfunction)):
            if function.__module__ == name:
                with contextlib.suppress(OSError):  # made as the module was loaded
                    found.append(inspect.getsource(function))
    return [text for text in dict.fromkeys(found) if _fits(text)]


def _paragraphs() -> list[str]:
    from deployments.models.carve.texts import default_texts  # noqa: PLC0415

    texts = default_texts(0)
    paragraphs = f"{texts.held_out}\n\n{texts.calibration}".split("\n\n")
    found = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return [text for text in found if _fits(text) and text.count(". ") >= 2]
