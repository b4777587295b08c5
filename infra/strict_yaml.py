"""YAML for people: no key twice, no surprises of type, and every value knows its line.

A *key path* leads from the root of a document to a value: `("models", 0, "name")`,
written `models[0].name`.

Other than plain YAML 1.1: `1e-3` is a number, dates are text, keys are text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.errors import ConfigError

KeyPath = tuple[str | int, ...]

_STR = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """The content of one file, and where each value stands in it."""

    source: str
    """What messages call the file."""

    data: Any
    lines: Mapping[KeyPath, int]  # from 1

    def line_of(self, path: KeyPath) -> int | None:
        """Line of the value, else of the nearest value around it that has one."""
        for end in range(len(path), -1, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None


class _Loader(yaml.SafeLoader):
    """SafeLoader with numbers as YAML 1.2 has them, and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)


def read_yaml_file(path: Path) -> Document:
    """Read one file, at most a few milliseconds.

    Raises:
        ConfigError: it cannot be read, or `read_yaml` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, source: str) -> Document:
    """Parse a document; an empty one is an empty mapping.

    Raises:
        ConfigError: not YAML, a key twice in one mapping, a key that is no
            text, a value that contains itself, or hundreds of levels. All such
            keys are named.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Document(source, {}, {})
        lines, problems = _survey(root)
        if problems:
            raise ConfigError("\n".join(f"{source}:{problem}" for problem in problems))
        return Document(source, loader.construct_document(root), lines)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}{_yaml_problem(error)}") from error
    except ValueError as error:
        # A number by its looks that is none: `0b_`.
        raise ConfigError(f"{source}: not valid YAML: {error}; use quotes for text") from error
    except RecursionError:
        raise ConfigError(f"{source}: is nested too deeply; write it flatter") from None


def format_path(path: KeyPath) -> str:
    """`("models", 0, "name")` as `models[0].name`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        reason = " ".join(part for part in (error.context, error.problem) if part)
        return f":{error.problem_mark.line + 1}: not valid YAML: {reason}"
    return f": not valid YAML: {error}"


def _survey(root: yaml.Node) -> tuple[dict[KeyPath, int], list[str]]:
    """Lines of all values, and what is wrong with keys (`LINE: text`), by line."""
    lines: dict[KeyPath, int] = {(): root.start_mark.line + 1}
    problems: dict[tuple[int, str], None] = {}

    def visit(node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> None:
        if node in around:
            problems[_line(node), f"{format_path(path)}: contains itself"] = None
            return
        seen: dict[str, yaml.Node] = {}
        for key, key_node, value_node in _entries(node):
            if problem := _key_problem(node, key_node, seen):
                problems[_line(key_node), format_path((*path, problem))] = None
            here = path if key is None else (*path, key)
            if key is not None:
                lines.setdefault(here, _line(key_node))
            visit(value_node, here, (*around, node))

    visit(root, (), ())
    return lines, [f"{line}: {text}" for line, text in sorted(problems)]


def _entries(node: yaml.Node) -> Iterator[tuple[str | int | None, yaml.Node, yaml.Node]]:
    """(key, where it stands, value); a key of None merges the value's own entries.

    Merged entries come last, as own ones win over them.
    """
    if isinstance(node, yaml.SequenceNode):
        yield from ((index, item, item) for index, item in enumerate(node.value))
    elif isinstance(node, yaml.MappingNode):
        merges = []
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                yield str(key_node.value), key_node, value_node
            elif isinstance(value_node, yaml.SequenceNode):
                merges += [(None, key_node, item) for item in value_node.value]
            else:
                merges.append((None, key_node, value_node))
        yield from merges


def _key_problem(
    node: yaml.Node, key_node: yaml.Node, seen: dict[str, yaml.Node]
) -> str | None:
    if not isinstance(node, yaml.MappingNode) or key_node.tag == _MERGE:
        return None
    if key_node.tag != _STR:
        shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a collection"
        return f"{shown}: a key must be text; put it in quotes"
    first = seen.setdefault(key_node.value, key_node)
    if first is key_node:
        return None
    return f"{key_node.value}: the key stands twice, first in line {_line(first)}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
