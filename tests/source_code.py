"""The project's own Python files, read for what they promise of their shape."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("cache", "coterie", "deployments", "experts", "infra", "router")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function or method."""

    where: str
    """`path:line name`."""

    num_lines: int
    num_parameters: int
    """Without `self` and `cls`."""


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Our own files under the folders; generated stubs are none."""
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return tuple(sorted(path for path in found if "_pb2" not in path.name))


def name_of(path: Path) -> str:
    """Path within the repository, for messages."""
    return str(path.relative_to(REPOSITORY))


def parse(path: Path) -> ast.Module:
    """Syntax tree of the file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions_in(path: Path) -> Iterator[Function]:
    """All functions of the file, nested ones too."""
    for node in ast.walk(parse(path)):
        if isinstance(node, FunctionNode):
            yield Function(
                where=f"{name_of(path)}:{node.lineno} {node.name}",
                num_lines=(node.end_lineno or node.lineno) - node.lineno + 1,
                num_parameters=_num_parameters(node.args),
            )


def imported_packages(path: Path) -> set[str]:
    """Top-level names of all absolute imports of the file."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _num_parameters(arguments: ast.arguments) -> int:
    positional = [*arguments.posonlyargs, *arguments.args]
    if positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    return len(positional) + len(arguments.kwonlyargs)
