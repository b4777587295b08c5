"""Code and prose that every machine has: the sources of Python's standard library.

Taken from modules inside packages alone (`email.header`, not `argparse`): what a
module of a single name holds is left for others to measure with. Nothing is imported.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_CHARS = (200, 1400)
# Tests, and what was installed by somebody else.
_PASSED_OVER = {"site-packages", "dist-packages", "test", "tests", "lib-dynload", "idle_test"}
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef)


def functions_and_paragraphs() -> tuple[list[str], list[str]]:
    """Functions with their indentation removed, and paragraphs of docstrings.

    Each once, in an order that is the same on every machine with this Python. Takes
    ten seconds or more.
    """
    functions: dict[str, None] = {}
    paragraphs: dict[str, None] = {}
    for source in _sources():
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                functions[_text(lines, node)] = None
            if isinstance(node, _WITH_DOCSTRING):
                paragraphs |= dict.fromkeys(_prose(ast.get_docstring(node) or ""))
    return [text for text in functions if _fits(text)], list(paragraphs)


def _sources() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.glob("*/**/*.py")):
        folders = set(path.relative_to(root).parts[:-1])
        if path.name != "__init__.py" and not folders & _PASSED_OVER:
            text = path.read_text(encoding="utf-8", errors="replace")
            if "\ufffd" not in text and "\f" not in text:
                yield text


def _text(lines: list[str], node: ast.FunctionDef) -> str:
    indent = node.col_offset
    return "\n".join(line[indent:] for line in lines[node.lineno - 1 : node.end_lineno])


def _prose(docstring: str) -> Iterator[str]:
    for part in docstring.split("\n\n"):
        text = " ".join(part.split())
        if _fits(text) and text.count(". ") >= 1 and ">>>" not in text:
            yield text


def _fits(text: str) -> bool:
    return _CHARS[0] <= len(text) <= _CHARS[1]
