"""The text that neurons are observed on, and the text that perplexity is measured on.

They have no part in common.
"""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError

_HELD_OUT_PART = 0.25
# Shorter ones are headings and remarks that any article may have.
_PARAGRAPH_CHARS = 40


@dataclass(frozen=True)
class Texts:
    """Two texts without a common part, and where they are from."""

    origin: str
    calibration: str
    held_out: str


def default_texts(seed: int) -> Texts:
    """Python's language reference, as the interpreter has it for `help()`.

    It comes with every Python (PSF licence), is English prose with some code,
    and is long enough: 60 articles without a common paragraph, 350 kB. Which
    articles are held out follows from `seed`.
    """
    # Imported here because it is a large literal.
    from pydoc_data.topics import topics  # noqa: PLC0415

    articles = _without_common_parts(topics.values())
    random.Random(seed).shuffle(articles)
    lengths = itertools.accumulate(map(len, articles))
    wanted = _HELD_OUT_PART * sum(map(len, articles))
    num_held_out = 1 + sum(length < wanted for length in lengths)
    return Texts(
        "Python's language reference (pydoc_data.topics)",
        calibration="\n\n".join(articles[num_held_out:]),
        held_out="\n\n".join(articles[:num_held_out]),
    )


def _without_common_parts(articles: Iterable[str]) -> list[str]:
    """The articles of which no paragraph is in a longer one that is taken."""
    seen: set[str] = set()
    taken = []
    for article in sorted(articles, key=lambda text: (-len(text), text)):
        paragraphs = {part.strip() for part in article.split("\n\n")}
        paragraphs = {part for part in paragraphs if len(part) >= _PARAGRAPH_CHARS}
        if paragraphs and not paragraphs & seen:
            seen |= paragraphs
            taken.append(article)
    return taken


def file_texts(path: Path) -> Texts:
    """The text in a file; its last quarter is held out, from an empty line on if it has one.

    Raises `ConfigError` if the file cannot be read as UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"calibration text {path}: {error}") from error
    cut = round(len(text) * (1 - _HELD_OUT_PART))
    paragraph = text.rfind("\n\n", len(text) // 2, cut)
    cut = cut if paragraph < 0 else paragraph
    return Texts(path.name, calibration=text[:cut], held_out=text[cut:])
