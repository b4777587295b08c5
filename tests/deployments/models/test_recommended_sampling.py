import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployments.models.builtin import NAME_TO_BUILTIN, BuiltinModel
from deployments.models.manifest import MANIFEST_NAME
from deployments.models.recommended_sampling import WithSampling
from deployments.models.resolve import resolve_model
from infra.errors import ConfigError
from tests.deployments.models.fake_converter import FILES, FakeConverter, RecordingProgress

GGUF_BYTES = b"GGUF rest of a model"


@pytest.fixture
def gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a built-in model, in a package that can be found."""
    package = tmp_path / "fake_sampled_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiny.gguf").write_bytes(GGUF_BYTES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package / "tiny.gguf"


@pytest.fixture
def converter(tmp_path: Path) -> FakeConverter:
    return FakeConverter(tmp_path / "runs")


def recommend(monkeypatch: pytest.MonkeyPatch, sampling: Mapping[str, float]) -> None:
    """Let `tiny` be a built-in name for the file, with this sampling."""
    sha256 = hashlib.sha256(GGUF_BYTES).hexdigest()
    entry = BuiltinModel(
        "tiny", "fake_sampled_package", "fake==1", "tiny.gguf", sha256, sampling
    )
    for module in ("reference", "resolve"):
        monkeypatch.setattr(f"deployments.models.{module}.NAME_TO_BUILTIN", {"tiny": entry})


def generation_config(directory: str) -> dict[str, object]:
    value: dict[str, object] = json.loads(
        (Path(directory) / "generation_config.json").read_text()
    )
    return value


def test_smollm2_has_the_sampling_of_its_model_card() -> None:
    sampling = NAME_TO_BUILTIN["smollm2-135m-instruct"].sampling
    assert sampling == {"temperature": 0.2, "top_p": 0.9}


def test_a_builtin_model_has_its_sampling_and_the_same_file_by_its_path_has_not(
    gguf_file: Path, converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend(monkeypatch, {"temperature": 0.5})
    by_name = resolve_model("tiny", tmp_path / "cache", converter=converter)
    by_path = resolve_model(str(gguf_file), tmp_path / "cache", converter=converter)
    assert generation_config(by_name.path) == {
        "eos_token_id": 1,
        "do_sample": True,
        "temperature": 0.5,
    }
    assert generation_config(by_path.path) == {"eos_token_id": 1}
    assert by_name.source_sha256 == by_path.source_sha256
    manifest = json.loads((Path(by_name.path) / MANIFEST_NAME).read_text())
    assert manifest["converter"] == "1+temperature=0.5"


def test_another_sampling_gets_a_directory_of_its_own_and_the_same_one_is_found_again(
    gguf_file: Path, converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for sampling in ({"temperature": 0.5}, {"temperature": 0.6}, {"temperature": 0.5}):
        recommend(monkeypatch, sampling)
        paths.append(resolve_model("tiny", tmp_path / "cache", converter=converter).path)
    assert paths[0] == paths[2] != paths[1]
    assert [generation_config(path)["temperature"] for path in paths] == [0.5, 0.6, 0.5]
    assert converter.num_runs == 2


def test_a_builtin_model_without_sampling_shares_the_directory_of_its_file(
    gguf_file: Path, converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend(monkeypatch, {})
    by_name = resolve_model("tiny", tmp_path / "cache", converter=converter)
    by_path = resolve_model(str(gguf_file), tmp_path / "cache", converter=converter)
    assert (by_name.path, converter.num_runs) == (by_path.path, 1)


def test_only_the_generation_config_differs_from_the_other_converter(
    gguf_file: Path, converter: FakeConverter, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    sampled = WithSampling(converter, {"top_p": 0.9, "temperature": 0.2})
    sampled.convert(gguf_file, target, RecordingProgress())
    changed = [name for name, was in FILES.items() if (target / name).read_bytes() != was]
    assert ({path.name for path in target.iterdir()}, changed) == (
        set(FILES),
        ["generation_config.json"],
    )


def test_the_order_of_the_defaults_makes_no_other_version(converter: FakeConverter) -> None:
    one = WithSampling(converter, {"top_p": 0.9, "temperature": 0.2})
    other = WithSampling(converter, {"temperature": 0.2, "top_p": 0.9})
    assert one.version == other.version == "1+temperature=0.2+top_p=0.9"


def test_what_the_other_converter_refuses_is_refused(
    gguf_file: Path, converter: FakeConverter, tmp_path: Path
) -> None:
    converter.fails = True
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="cannot convert this"):
        WithSampling(converter, {}).convert(gguf_file, tmp_path / "out", RecordingProgress())
