"""What the house looks like, checked: sizes, names, packages, stubs.

Import direction is import-linter's (`make check` runs it).
"""

import importlib
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.source_code import (
    REPOSITORY,
    ROOMS,
    functions_in,
    imported_packages,
    name_of,
    python_files,
)

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
MAX_MEDIAN_FUNCTION_LINES = 10
SAYS_NOTHING = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}
PROMISE = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
PROTOS = ("coterie/v1/inference", "deployments/kserve/grpc_service")
STUB_ENDINGS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def all_files() -> tuple[Path, ...]:
    return python_files(*ROOMS, "tests")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_no_file_is_longer_than_its_ceiling() -> None:
    lengths = {name_of(p): len(p.read_text().splitlines()) for p in all_files()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_its_ceiling() -> None:
    functions = [function for path in all_files() for function in functions_in(path)]
    assert [f for f in functions if f.num_lines > MAX_FUNCTION_LINES] == []


def test_no_function_takes_more_parameters_than_its_ceiling() -> None:
    # A click command takes one for each of its options.
    paths = [p for p in python_files(*ROOMS) if p.parent.name != "cli"]
    functions = [function for path in paths for function in functions_in(path)]
    assert [f for f in functions if f.num_parameters > MAX_PARAMETERS] == []


def test_the_median_function_is_short() -> None:
    lengths = [f.num_lines for path in python_files(*ROOMS) for f in functions_in(path)]
    median = statistics.median(lengths)
    print(f"{len(lengths)} functions, median {median} lines")
    assert median < MAX_MEDIAN_FUNCTION_LINES


def test_no_file_name_says_nothing() -> None:
    assert [name_of(p) for p in all_files() if p.name in SAYS_NOTHING] == []


def test_no_file_leaves_work_for_later() -> None:
    marked = [name_of(p) for p in all_files() if PROMISE.search(p.read_text())]
    assert marked == []


def test_init_files_are_empty_except_the_public_face() -> None:
    face = REPOSITORY / "coterie" / "__init__.py"
    inits = [p for p in all_files() if p.name == "__init__.py" and p != face]
    assert [name_of(p) for p in inits if p.read_text().strip()] == []


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in python_files("tests")}
    assert [name_of(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_what_the_unit_tests_pass_over_is_marked_as_no_unit_test() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    folders = re.findall(r"--ignore=(\S+)", makefile)
    paths = [p for folder in folders for p in (REPOSITORY / folder).rglob("test_*.py")]
    assert len(paths) > 10
    marked = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.(cluster|model)\b", re.MULTILINE)
    assert [name_of(p) for p in paths if not marked.search(p.read_text())] == []


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_imported_from_this_repository(room: str) -> None:
    module_file = importlib.import_module(room).__file__
    assert module_file is not None
    assert Path(module_file).resolve() == REPOSITORY / room / "__init__.py"


def test_the_public_face_lists_its_names_in_order() -> None:
    face = importlib.import_module("coterie")
    assert face.__all__ == sorted(face.__all__)
    assert [name for name in face.__all__ if not hasattr(face, name)] == []


def test_the_client_library_loads_nothing_heavy() -> None:
    heavy = "'deployments', 'fastapi', 'numpy', 'ray', 'torch', 'transformers', 'vllm'"
    code = f"import sys, coterie; print([m for m in [{heavy}] if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_every_package_is_distributed(project: dict[str, Any]) -> None:
    inits = [path for path in python_files(*ROOMS) if path.name == "__init__.py"]
    packages = [name_of(path.parent).replace("/", ".") for path in inits]
    assert project["tool"]["setuptools"]["packages"] == sorted(packages)


def test_every_import_is_of_a_declared_dependency(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    given = [*project["project"]["dependencies"], *(r for rs in extras.values() for r in rs)]
    declared = {re.split(r"[\[=]", requirement)[0] for requirement in given}
    owners = importlib.metadata.packages_distributions()
    imported = set().union(*(imported_packages(path) for path in all_files()))
    foreign = imported - set(sys.stdlib_module_names) - {*ROOMS, "tests"}
    undeclared = {
        name
        for name in foreign
        if not declared & {canonical(owner) for owner in owners.get(name, [name])}
    }
    assert undeclared == set()


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_dependency_is_pinned(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    given = [*project["project"]["dependencies"], *(r for rs in extras.values() for r in rs)]
    assert [r for r in given if "==" not in r and r != "coterie[serve]"] == []


@pytest.mark.parametrize("proto", PROTOS)
def test_the_grpc_stubs_are_those_of_the_proto(proto: str, tmp_path: Path) -> None:
    command = ["-m", "grpc_tools.protoc", "--proto_path=.", f"{proto}.proto"]
    kinds = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, *command, *kinds], cwd=REPOSITORY, check=True)
    stale = [
        proto + ending
        for ending in STUB_ENDINGS
        if (tmp_path / (proto + ending)).read_text()
        != (REPOSITORY / (proto + ending)).read_text()
    ]
    assert stale == [], "run `make proto`"


def test_every_proto_has_its_stubs_checked() -> None:
    protos = {path for room in ROOMS for path in (REPOSITORY / room).rglob("*.proto")}
    assert {name_of(path) for path in protos} == {f"{proto}.proto" for proto in PROTOS}
