import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.models import builtin
from deployments.models.builtin import BuiltinModel
from deployments.models.conversion import Source, convert_once
from deployments.models.manifest import MANIFEST_NAME
from deployments.models.resolve import ResolvedModel, resolve_model
from infra.errors import ConfigError
from tests.deployments.models.fake_converter import FILES, FakeConverter, RecordingProgress

GGUF_BYTES = b"GGUF rest of a model"
SHA256 = hashlib.sha256(GGUF_BYTES).hexdigest()


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    path = tmp_path / "my model.gguf"
    path.write_bytes(GGUF_BYTES)
    return path


@pytest.fixture
def converter(tmp_path: Path) -> FakeConverter:
    return FakeConverter(tmp_path / "runs")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache_dir: Path) -> list[str]:
    """What a conversion must not leave behind."""
    ends = (".partial", ".broken")
    return [path.name for path in (cache_dir / "models").iterdir() if path.name.endswith(ends)]


def test_a_gguf_file_becomes_a_directory_with_its_manifest(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    model = resolve_model(str(gguf_file), cache_dir, converter=converter)
    directory = Path(model.path)
    assert model == ResolvedModel(
        str(directory), str(gguf_file), "gguf", source=gguf_file, source_sha256=SHA256
    )
    assert model.is_local
    assert directory.name.startswith("my-model-")
    assert {path.name for path in directory.iterdir()} == {*FILES, MANIFEST_NAME}
    assert json.loads((directory / MANIFEST_NAME).read_text()) == {
        "source_sha256": SHA256,
        "converter": "1",
        "files": {
            name: {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in FILES.items()
        },
    }
    assert leftovers(cache_dir) == []


def test_the_second_call_converts_nothing_and_reports_nothing(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    first = resolve_model(str(gguf_file), cache_dir, converter=converter)
    progress = RecordingProgress()
    assert resolve_model(str(gguf_file), cache_dir, progress, converter) == first
    assert (converter.num_runs, progress.reports) == (1, [])


def test_a_hub_id_is_passed_on_and_touches_no_disk(
    cache_dir: Path, converter: FakeConverter
) -> None:
    model = resolve_model("owner/name", cache_dir, converter=converter)
    assert model == ResolvedModel("owner/name", "owner/name", "hub")
    assert not model.is_local
    assert not cache_dir.exists()


def test_a_directory_is_passed_on_as_an_absolute_path(
    tmp_path: Path, cache_dir: Path, converter: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "mine" / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    model = resolve_model("./mine", cache_dir, converter=converter)
    assert model == ResolvedModel(str(tmp_path / "mine"), "./mine", "directory")


@pytest.mark.parametrize("damage", ["truncate", "delete", "no manifest", "manifest is no JSON"])
def test_a_broken_conversion_is_done_again(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter, damage: str
) -> None:
    directory = Path(resolve_model(str(gguf_file), cache_dir, converter=converter).path)
    if damage == "truncate":
        (directory / "model.safetensors").write_bytes(b"0123")
    elif damage == "delete":
        (directory / "config.json").unlink()
    elif damage == "no manifest":
        (directory / MANIFEST_NAME).unlink()
    else:
        (directory / MANIFEST_NAME).write_text("[")
    again = Path(resolve_model(str(gguf_file), cache_dir, converter=converter).path)
    assert (again, converter.num_runs) == (directory, 2)
    assert (again / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert leftovers(cache_dir) == []


def test_a_failed_conversion_leaves_nothing_and_can_be_tried_again(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    converter.fails = True
    with pytest.raises(ConfigError, match="cannot convert this"):
        resolve_model(str(gguf_file), cache_dir, converter=converter)
    directories = [path for path in (cache_dir / "models").iterdir() if path.is_dir()]
    assert [path.name for path in directories] == ["digests"]
    converter.fails = False
    assert Path(resolve_model(str(gguf_file), cache_dir, converter=converter).path).is_dir()


def test_what_a_killed_conversion_left_is_cleared_away(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    name = Path(resolve_model(str(gguf_file), cache_dir, converter=converter).path).name
    target = cache_dir / "models" / name
    target.rename(target.with_name(f"{name}.partial"))
    (target.with_name(f"{name}.partial") / "junk").write_text("half")
    directory = Path(resolve_model(str(gguf_file), cache_dir, converter=converter).path)
    assert {path.name for path in directory.iterdir()} == {*FILES, MANIFEST_NAME}
    assert leftovers(cache_dir) == []


def test_another_converter_version_gets_a_directory_of_its_own(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    old = resolve_model(str(gguf_file), cache_dir, converter=converter)
    converter.version = "2"
    new = resolve_model(str(gguf_file), cache_dir, converter=converter)
    assert old.path != new.path
    assert Path(old.path).is_dir()


def test_a_file_that_changes_is_converted_anew(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    old = resolve_model(str(gguf_file), cache_dir, converter=converter)
    gguf_file.write_bytes(GGUF_BYTES.upper())
    os.utime(gguf_file, ns=(0, 0))
    new = resolve_model(str(gguf_file), cache_dir, converter=converter)
    assert (old.path != new.path, converter.num_runs) == (True, 2)


def test_the_same_file_under_another_path_is_converted_once(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / gguf_file.name
    copy.write_bytes(GGUF_BYTES)
    first = resolve_model(str(gguf_file), cache_dir, converter=converter)
    second = resolve_model(str(copy), cache_dir, converter=converter)
    assert (first.path, converter.num_runs) == (second.path, 1)


def test_the_digest_is_reported_with_fractions(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    progress = RecordingProgress()
    resolve_model(str(gguf_file), cache_dir, progress, converter)
    assert progress.reports == [
        ("checking my model.gguf", 1.0),
        ("converting", 0.0),
        ("writing the manifest", None),
    ]


def test_a_damaged_note_of_a_digest_is_written_again(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    resolve_model(str(gguf_file), cache_dir, converter=converter)
    (note,) = (cache_dir / "models" / "digests").iterdir()
    note.write_text("{")
    model = resolve_model(str(gguf_file), cache_dir, converter=converter)
    assert (model.source_sha256, converter.num_runs) == (SHA256, 1)
    assert json.loads(note.read_text())["sha256"] == SHA256


def test_a_builtin_model_with_other_bytes_is_refused(
    gguf_file: Path,
    cache_dir: Path,
    converter: FakeConverter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = gguf_file.parent / "fake_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "tiny.gguf").write_bytes(GGUF_BYTES)
    monkeypatch.syspath_prepend(str(gguf_file.parent))
    for sha256, name in ((SHA256, "whole"), ("0" * 64, "damaged")):
        entry = BuiltinModel(name, "fake_model_package", "fake==1", "tiny.gguf", sha256)
        table: dict[str, Any] = {name: entry}
        monkeypatch.setattr(builtin, "NAME_TO_BUILTIN", table)
        monkeypatch.setattr("deployments.models.reference.NAME_TO_BUILTIN", table)
        monkeypatch.setattr("deployments.models.resolve.NAME_TO_BUILTIN", table)
        if name == "whole":
            assert resolve_model(name, cache_dir, converter=converter).kind == "builtin"
            continue
        with pytest.raises(ConfigError, match=r"damaged.*install fake==1 again"):
            resolve_model(name, cache_dir, converter=converter)


def test_a_cache_that_cannot_be_written_is_a_config_error(
    gguf_file: Path, tmp_path: Path, converter: FakeConverter
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        resolve_model(str(gguf_file), tmp_path / "file", converter=converter)


def convert_in_child(source: Path, cache_dir: Path, log: Path, results: Any) -> None:
    progress = RecordingProgress()
    slow = FakeConverter(log, delay_s=1.0)
    path = convert_once(Source(source, SHA256), slow, cache_dir, progress)
    results.put((str(path), progress.stages))


def test_two_processes_that_want_the_same_model_convert_it_once(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    args = (gguf_file, cache_dir, converter.log, results)
    children = [context.Process(target=convert_in_child, args=args) for _ in range(2)]
    for child in children:
        child.start()
    answers = sorted([results.get(timeout=50) for _ in children], key=lambda answer: answer[1])
    for child in children:
        child.join(timeout=10)
    assert [child.exitcode for child in children] == [0, 0]
    assert converter.num_runs == 1
    assert len({path for path, _ in answers}) == 1
    # The loser saw the lock, or came so late that all was done.
    assert answers[0][1] == ["converting", "writing the manifest"]
    assert answers[1][1] in ([], ["waiting: another process is converting this model"])


def test_a_waiting_process_says_that_it_waits(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(
        target=convert_in_child, args=(gguf_file, cache_dir, converter.log, results)
    )
    child.start()
    while converter.num_runs == 0:
        child.join(timeout=0.01)
        assert child.exitcode in (None, 0)
    progress = RecordingProgress()
    path = convert_once(Source(gguf_file, SHA256), converter, cache_dir, progress)
    assert results.get(timeout=50)[0] == str(path)
    child.join(timeout=10)
    assert progress.stages == ["waiting: another process is converting this model"]
    assert converter.num_runs == 1


def test_a_finished_conversion_is_found_without_heavy_imports(
    gguf_file: Path, cache_dir: Path, converter: FakeConverter
) -> None:
    resolve_model(str(gguf_file), cache_dir, converter=converter)
    code = (
        "import sys; from pathlib import Path\n"
        "from deployments.models.resolve import resolve_model\n"
        "from tests.deployments.models.fake_converter import FakeConverter\n"
        "fake = FakeConverter(Path('/none'))\n"
        "resolve_model(sys.argv[1], Path(sys.argv[2]), converter=fake)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'gguf', 'ray', 'filelock', 'pydantic'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    argv = [sys.executable, "-c", code, str(gguf_file), str(cache_dir)]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50)
    assert answer.stdout.strip() == "[]"
