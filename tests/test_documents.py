"""What the documents say is done: their snippets run, their commands exist.

The info string of a fenced block says what is checked of it:

    python        it compiles
    python run    it runs, against a fake cluster in place of localhost:9000
    yaml config   it is a configuration file
    console, bash, sh   each `coterie COMMAND` and `make TARGET` in it exists
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coterie.cli.main import cli
from coterie.config import Config
from infra.section_file import parse_section
from infra.strict_yaml import read_yaml
from tests.builders.fake_inference import FakeInference, serving
from tests.source_code import REPOSITORY

DOCUMENTS = tuple(sorted(REPOSITORY.glob("*.md")))
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
SHELL = {"console", "bash", "sh", "shell"}
DEFAULT_ADDRESS = "localhost:9000"


@dataclass(frozen=True)
class Snippet:
    """One fenced block."""

    document: str
    line: int
    tags: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def snippets(*tags: str) -> list[Snippet]:
    return [s for path in DOCUMENTS for s in snippets_in(path) if s.tags[: len(tags)] == tags]


def snippets_in(path: Path) -> Iterator[Snippet]:
    text = path.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        yield Snippet(path.name, line, tuple(block[1].split()), block[2])


def shell_lines() -> list[tuple[str, str]]:
    """(where, command line) of every shell block."""
    blocks = [s for path in DOCUMENTS for s in snippets_in(path) if SHELL & set(s.tags[:1])]
    return [(str(block), line) for block in blocks for line in block.text.splitlines()]


def named_after(word: str) -> list[tuple[str, str]]:
    """(where, what follows the word) for each command that begins with it."""
    pattern = re.compile(rf"(?:^|[;&|(]|\$ )\s*(?:\.venv/bin/)?{word}((?: +[^\s;&|)#]+)*)")
    return [
        (where, match[1])
        for where, line in shell_lines()
        for match in pattern.finditer(line.strip())
    ]


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_in_a_document_compiles(snippet: Snippet) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(snippet.text, str(snippet), "exec", flags=flags, dont_inherit=True)


@pytest.mark.parametrize("snippet", snippets("python", "run"), ids=str)
def test_python_in_a_document_runs(
    snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeInference()
    with serving(fake) as address:
        code = snippet.text.replace(DEFAULT_ADDRESS, address)
        exec(compile(code, str(snippet), "exec"), {"__name__": "__main__"})
    assert fake.requests, "it asked the cluster nothing"
    assert capsys.readouterr().out, "it printed nothing"


@pytest.mark.parametrize("snippet", snippets("yaml", "config"), ids=str)
def test_a_configuration_in_a_document_holds(snippet: Snippet) -> None:
    assert parse_section(Config, read_yaml(snippet.text, str(snippet))).models


def test_every_coterie_command_in_a_document_exists() -> None:
    commands = set(cli.list_commands(cli.make_context("coterie", [], resilient_parsing=True)))
    named = [(where, words.split()) for where, words in named_after("coterie")]
    unknown = [
        (where, words)
        for where, words in named
        if words and not words[0].startswith("-") and words[0] not in commands
    ]
    assert unknown == []


def test_every_make_target_in_a_document_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    unknown = [
        (where, word)
        for where, words in named_after("make")
        for word in words.split()
        if "=" not in word and not word.startswith("-") and word not in targets
    ]
    assert unknown == []


def test_every_test_that_a_document_names_exists() -> None:
    named = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
    found = [match for path in DOCUMENTS for match in named.finditer(path.read_text())]
    assert found
    missing = [
        match[0]
        for match in found
        if not (file := REPOSITORY / match[1]).exists()
        or (match[2] and not re.search(rf"def {match[2]}\b", file.read_text()))
    ]
    assert missing == []
