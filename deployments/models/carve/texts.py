"""The text that neurons are observed on, and the text that perplexity is measured on.

They never overlap: whole documents go to one or the other.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError

_HELD_OUT_PART = 0.25


@dataclass(frozen=True)
class Texts:
    """Two texts without a common part, and where they are from."""

    origin: str
    calibration: str
    held_out: str


def default_texts(seed: int) -> Texts:
    """Python's language reference, as the interpreter has it for `help()`.

    It comes with every Python (PSF licence), is English prose with some code,
    and is long enough: 250 articles, 750 kB. Which articles are held out
    follows from `seed`.
    """
    # Imported here because it is a large literal.
    from pydoc_data.topics import topics  # noqa: PLC0415

    articles = [topics[name] for name in sorted(topics)]
    random.Random(seed).shuffle(articles)
    num_held_out = round(len(articles) * _HELD_OUT_PART)
    return Texts(
        "the Python language reference (pydoc_data.topics)",
        calibration="\n\n".join(articles[num_held_out:]),
        held_out="\n\n".join(articles[:num_held_out]),
    )
