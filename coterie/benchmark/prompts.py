"""Prompts: read from a file, or made up from an alphabet.

An alphabet is a row of common short words, or of their token ids. The ids let a
prompt have an exact number of tokens; a word is about one token in most
vocabularies, for servers that take text alone. Ids of real words are also never
special tokens, which random ids could be.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.benchmark.types import Ask, PlannedRequest
from coterie.errors import ConfigError

_TEXT = (
    "the of and to in is you that it he was for on are as with his they at be this have "
    "from or one had by word but not what all were we when your can said there use an each "
    "which she do how their if will up other about out many then them these so some her "
    "would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get"
)
WORDS = tuple(_TEXT.split())
BLOCK_TOKENS = 512
"""Tokens of one prefix block of a trace."""

Alphabet = tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """A prompt of a file; `max_tokens` is None where the line names none."""

    text: str
    max_tokens: int | None = None


def ask_of(request: PlannedRequest, alphabet: Alphabet, seed: int) -> Ask:
    """What to send for a planned request; the same for the same arguments."""
    if request.prompt is not None:
        return Ask(request.prompt, request.max_tokens)
    symbols = made_up(request, len(alphabet), seed)
    if isinstance(alphabet[0], str):
        return Ask(" ".join(str(alphabet[i]) for i in symbols), request.max_tokens)
    return Ask(tuple(int(alphabet[i]) for i in symbols), request.max_tokens)


def made_up(request: PlannedRequest, num_symbols: int, seed: int) -> list[int]:
    """The symbols of a made-up prompt: its blocks, then symbols of its own.

    Shape: [num_prompt_tokens], each in [0, `num_symbols`).
    """
    room = request.num_prompt_tokens
    found: list[int] = []
    for block in request.prefix_blocks:
        if len(found) + BLOCK_TOKENS > room:
            break
        found += _drawn(f"{seed}/block/{block}", num_symbols, BLOCK_TOKENS)
    own = _drawn(f"{seed}/request/{request.index}", num_symbols, room - len(found))
    return found + own


def read_prompts(path: Path) -> list[Given]:
    """One prompt a line; in a `.jsonl` file one object a line, `{"prompt": "...",
    "max_tokens": 40}`, of which `max_tokens` may be missing.

    Blank lines are passed over. Raises ConfigError for a file without prompts and
    for a line that is no such object.
    """
    lines = _lines(path)
    is_jsonl = path.suffix == ".jsonl"
    prompts = [
        _given(line, f"{path}:{number}") if is_jsonl else Given(line) for number, line in lines
    ]
    if not prompts:
        raise ConfigError(f"{path} has no prompts; write one a line")
    return prompts


def _lines(path: Path) -> Sequence[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    # Not splitlines(), which also ends lines at U+2028 and other characters of texts.
    rows = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
    return [(number, line) for number, line in rows if line.strip()]


def _given(line: str, where: str) -> Given:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from error
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str):
        raise ConfigError(f'{where} must be an object such as {{"prompt": "Why?"}}')
    max_tokens = value.get("max_tokens")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise ConfigError(f"{where}: max_tokens must be a number of at least 1")
    return Given(prompt, max_tokens)


def _drawn(name: str, num_symbols: int, count: int) -> list[int]:
    # Seeded by text: equal in every process, whatever PYTHONHASHSEED is.
    return random.Random(name).choices(range(num_symbols), k=count)
