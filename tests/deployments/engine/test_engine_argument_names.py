"""Which engine arguments the installed vLLM takes, told without importing it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.engine.engine_argument_names import engine_argument_names, field_names
from deployments.engine.plan import plan_engine_args
from deployments.settings import ModelSection

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass
class Base:
    first: int
    second: "list[str] | None" = None
    shared: ClassVar[int] = 3
    constant = 4

    def method(self) -> None:
        local: int = 5

@dataclass
class Child(Base):
    third: bool = False

@dataclass
class Stranger(elsewhere.Base):
    fourth: int

class Again(Again):
    fifth: int
"""


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    engine_argument_names.cache_clear()
    yield
    engine_argument_names.cache_clear()


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None) -> None:
    """Let another package stand for vLLM; it cannot be imported."""
    package = tmp_path / "not_vllm"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    if source is not None:
        (package / "engine" / "arg_utils.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("deployments.engine.engine_argument_names._PACKAGE", "not_vllm")


def test_fields_are_those_of_the_class_and_its_bases() -> None:
    assert field_names(SOURCE, "Base") == frozenset({"first", "second"})
    assert field_names(SOURCE, "Child") == frozenset({"first", "second", "third"})


@pytest.mark.parametrize("name", ["Stranger", "Again", "Absent"])
def test_a_class_that_is_not_wholly_in_the_module_has_no_known_fields(name: str) -> None:
    assert field_names(SOURCE, name) is None


def test_names_come_from_the_source_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, SOURCE.replace("Child", "AsyncEngineArgs"))
    assert engine_argument_names() == frozenset({"first", "second", "third"})


@pytest.mark.parametrize("source", [None, "", "class (", "a\0b", "class Other: ..."])
def test_a_source_that_is_laid_out_otherwise_tells_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    install(tmp_path, monkeypatch, source)
    assert engine_argument_names() is None


def test_where_vllm_is_not_installed_there_are_no_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deployments.engine.engine_argument_names._PACKAGE", "no_such_package")
    assert engine_argument_names() is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_argument_that_a_section_gives_the_engine_is_one_it_takes(device: str) -> None:
    everything = ModelSection(
        name="m",
        model="m",
        quantization="fp8",
        max_model_len=64,
        kv_cache_memory_bytes=2**30,
        adapters={"a": "/a"},
    )
    args = plan_engine_args(everything, device, "/m", "mp")  # type: ignore[arg-type]
    assert args.keys() <= (engine_argument_names() or set())


@pytest.mark.model
def test_names_are_the_fields_that_vllm_itself_has() -> None:
    # Imported here because it takes seconds.
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415

    fields = frozenset(
        field.name for field in dataclasses.fields(AsyncEngineArgs) if field.init
    )
    assert engine_argument_names() == fields
