"""The check at the end of an installation."""

import subprocess
import sys
from pathlib import Path

from infra.install.verify import intruders, torch_cuda_version


def test_cuda_builds_are_told_from_the_rest() -> None:
    names = ["torch", "nvidia-nccl-cu13", "Triton", "torchvision", "numpy", "cuda-python"]
    assert intruders(names) == ["Triton", "cuda-python", "nvidia-nccl-cu13", "torchvision"]


def test_torch_tells_its_build_without_being_imported() -> None:
    was_loaded = "torch" in sys.modules
    version = torch_cuda_version()
    assert version is None or version[0].isdigit()
    assert ("torch" in sys.modules) == was_loaded


def test_the_check_takes_an_environment_that_fits_its_device(repository: Path) -> None:
    device = "cpu" if torch_cuda_version() is None else "gpu"
    command = [sys.executable, str(repository / "infra/install/verify.py"), device]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_interpreter_that_does_not_fit_is_refused(repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    command = [str(repository / "infra/install/install.sh"), str(tmp_path / "venv"), str(old)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "is Python 3.9.1; Python 3.11 or 3.12 is needed" in ended.stderr
    assert not (tmp_path / "venv").exists()
