from pathlib import Path

import pytest

from deployments.models.builtin import NAME_TO_BUILTIN, BuiltinModel, find_builtin
from deployments.models.reference import ModelReference, parse_reference
from infra.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def make_checkpoint(directory: Path, *leave_out: str) -> Path:
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if name not in leave_out:
            (directory / name).write_text("{}")
    return directory


def test_a_builtin_name_is_found_among_the_packages() -> None:
    parsed = parse_reference("smollm2-135m-instruct")
    assert parsed.kind == "builtin"
    assert parsed.path is not None
    assert parsed.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_a_builtin_name_wins_over_a_directory_of_that_name(home: Path) -> None:
    directory = make_checkpoint(home / "smollm2-135m-instruct")
    assert parse_reference("smollm2-135m-instruct").kind == "builtin"
    assert parse_reference("./smollm2-135m-instruct").path == directory


@pytest.mark.parametrize("text", ["models/mine", "./models/mine", "~/models/mine"])
def test_an_existing_directory_is_taken_before_a_hub_id(home: Path, text: str) -> None:
    directory = make_checkpoint(home / "models" / "mine")
    assert parse_reference(text) == ModelReference(text, "directory", directory)


def test_a_gguf_file_is_known_by_its_first_bytes_and_not_by_its_name(home: Path) -> None:
    (home / "model.bin").write_bytes(b"GGUF and more")
    (home / "model.gguf").write_bytes(b"not it")
    assert parse_reference("model.bin") == ModelReference(
        "model.bin", "gguf", home / "model.bin"
    )
    with pytest.raises(ConfigError, match="not a GGUF file"):
        parse_reference("model.gguf")


def test_owner_and_name_make_a_hub_id(home: Path) -> None:
    text = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert parse_reference(text) == ModelReference(text, "hub", None)


@pytest.mark.parametrize(
    "text",
    ["/no/such", "./missing", "../missing", "~/missing", "owner/name.gguf", "a/b/c", "a/b/"],
)
def test_a_missing_path_is_an_error_and_never_a_hub_id(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="no such file or directory"):
        parse_reference(text)


def test_an_unknown_name_is_answered_with_the_nearest_one_and_all_forms(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference("SmolLM2-135M-instuct")
    assert "Did you mean 'smollm2-135m-instruct'?" in caught.value.message
    for form in ("built-in name", "local directory", "GGUF file", "hub id"):
        assert form in caught.value.message


@pytest.mark.parametrize("text", ["", "a name", "-/-", "gpt2"])
def test_what_fits_no_form_is_refused(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        parse_reference(text)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_directory_that_lacks_a_part_is_refused_by_name(home: Path, name: str) -> None:
    make_checkpoint(home / "model", name)
    with pytest.raises(ConfigError, match="lacks") as caught:
        parse_reference("./model")
    assert name.rpartition(".")[2] in caught.value.message


def test_a_directory_with_only_a_gguf_file_points_at_the_file(home: Path) -> None:
    (home / "model").mkdir()
    (home / "model" / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"It holds q4\.gguf: name that file instead"):
        parse_reference("./model")


def test_a_builtin_model_whose_package_is_absent_says_what_to_install() -> None:
    absent = BuiltinModel("gone", "no_such_package_here", "gone==1.0", "gone.gguf", "0" * 64)
    with pytest.raises(ConfigError, match=r"gone==1\.0 carries it"):
        find_builtin(absent)


def test_every_builtin_name_is_a_key_of_its_own_entry() -> None:
    assert all(name == model.name for name, model in NAME_TO_BUILTIN.items())
