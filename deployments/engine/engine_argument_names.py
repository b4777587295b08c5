"""Names of vLLM's engine arguments, read from its source: importing it takes seconds."""

import ast
import functools
import importlib.util
from pathlib import Path

_PACKAGE = "vllm"
_MODULE = Path("engine", "arg_utils.py")
_CLASS = "AsyncEngineArgs"


@functools.cache
def engine_argument_names() -> frozenset[str] | None:
    """What `AsyncEngineArgs` of the installed vLLM takes.

    None where it cannot be told: vLLM is not installed (a machine with the
    client alone), or its source is not laid out as expected. Takes 0.2 s once
    in a process, and imports nothing of vLLM.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            return field_names((Path(folder) / _MODULE).read_text(encoding="utf-8"), _CLASS)
        except (OSError, SyntaxError, ValueError):
            continue
    return None


def field_names(source: str, class_name: str) -> frozenset[str] | None:
    """Fields of a dataclass, with those of its base classes, by the module's source.

    None if the class or a base class is not defined once in the module. Raises
    SyntaxError if the source is not Python.
    """
    tree = ast.parse(source)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names: set[str] = set()
    wanted = [class_name]
    while wanted:
        node = classes.pop(wanted.pop(), None)
        if node is None:
            return None
        names |= _own_fields(node)
        wanted += [ast.unparse(base) for base in node.bases]
    return frozenset(names)


def _own_fields(node: ast.ClassDef) -> set[str]:
    return {
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }
