"""The built-in mixture of experts, as the resolver makes it; with a converter of no size."""

import json
from pathlib import Path

import pytest

from deployments.models.builtin import NAME_TO_BUILTIN
from deployments.models.carve import carving
from deployments.models.carve.carving import Carving
from deployments.models.carve.settings import CarveSettings, cut_of
from deployments.models.carve.texts import Texts
from deployments.models.reference import parse_reference
from deployments.models.resolve import resolve_model
from infra.errors import ConfigError
from infra.progress import Progress
from tests.deployments.models.fake_converter import FakeConverter, RecordingProgress

NAME = "smollm2-carved-16x12"


@pytest.fixture
def converter(tmp_path: Path) -> FakeConverter:
    return FakeConverter(tmp_path / "runs")


@pytest.fixture
def carved_from(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories that were carved, by a carver of no size."""
    sources: list[Path] = []

    def carve(
        source: Path, target: Path, texts: Texts, settings: CarveSettings, progress: Progress
    ) -> None:
        assert texts.calibration
        sources.append(source)
        progress.report("carving", 0.0)
        (target / "config.json").write_text(json.dumps({"experts": settings.num_experts}))

    monkeypatch.setattr(carving, "_carve", carve)
    return sources


def test_it_is_the_same_file_and_sampling_as_the_dense_one() -> None:
    dense, carved = NAME_TO_BUILTIN["smollm2-135m-instruct"], NAME_TO_BUILTIN[NAME]
    assert (carved.sha256, carved.sampling) == (dense.sha256, dense.sampling)
    assert parse_reference(NAME).path == parse_reference("smollm2-135m-instruct").path
    assert dense.carving is None
    assert carved.carving == CarveSettings(num_experts=16, num_active=12, shared_size=512)
    assert cut_of(carved.carving, 1536).expert_size == 64


def test_it_is_named_wherever_builtin_models_are() -> None:
    with pytest.raises(ConfigError, match=f"a built-in name .*{NAME}"):
        parse_reference("no-such-model")
    with pytest.raises(ConfigError, match=f"Did you mean '{NAME}'"):
        parse_reference("smollm2-carved")


def test_it_is_carved_once_from_the_dense_model_which_is_converted_once(
    tmp_path: Path, converter: FakeConverter, carved_from: list[Path]
) -> None:
    progress = RecordingProgress()
    first = resolve_model(NAME, tmp_path / "cache", progress, converter)
    again = resolve_model(NAME, tmp_path / "cache", converter=converter)
    dense = resolve_model("smollm2-135m-instruct", tmp_path / "cache", converter=converter)
    assert (first, first.kind, carved_from) == (again, "builtin", [Path(dense.path)])
    assert (converter.num_runs, first.path != dense.path) == (1, True)
    shown = [stage for stage, _ in progress.reports if not stage.startswith("checking")]
    assert shown == ["converting", "writing the manifest", "carving", "writing the manifest"]
    assert json.loads((Path(first.path) / "config.json").read_text()) == {"experts": 16}


def test_other_settings_python_or_converter_get_a_directory_of_their_own(
    tmp_path: Path, converter: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [
        Carving(converter, CarveSettings(), tmp_path).version,
        Carving(converter, CarveSettings(num_active=8), tmp_path).version,
        Carving(converter, CarveSettings(seed=1), tmp_path).version,
        Carving(FakeConverter(tmp_path, version="2"), CarveSettings(), tmp_path).version,
    ]
    monkeypatch.setattr("platform.python_version", lambda: "3.12.99")
    versions.append(Carving(converter, CarveSettings(), tmp_path).version)
    assert len(set(versions)) == len(versions)
    assert "16-12-None-0" in versions[0]


def test_a_dense_model_that_cannot_be_converted_leaves_no_carved_one(
    tmp_path: Path, converter: FakeConverter, carved_from: list[Path]
) -> None:
    converter.fails = True
    with pytest.raises(ConfigError, match="cannot convert this"):
        resolve_model(NAME, tmp_path / "cache", converter=converter)
    left = [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert (left, carved_from) == (["digests"], [])
