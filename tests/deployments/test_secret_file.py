"""Secrets of a cluster: whole, its owner's, and never empty."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments import app, local_cluster
from deployments.app import LINK_TOKEN_VARIABLE, link_token
from deployments.secret_file import shared_secret
from deployments.settings import ClusterSection
from infra.errors import ConfigError


def test_a_secret_is_made_once_for_its_owner_s_eyes_and_nothing_is_left_beside_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state" / "secret"
    made = shared_secret(path)
    assert shared_secret(path) == made == path.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_those_who_make_a_secret_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = set(threads.map(lambda _: shared_secret(tmp_path / "secret"), range(64)))
    assert len(found) == 1


def test_a_disk_that_fails_while_a_secret_is_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(ConfigError, match="No space left"):
            shared_secret(tmp_path / "secret")
    assert list(tmp_path.iterdir()) == []
    assert shared_secret(tmp_path / "secret")


@pytest.mark.parametrize("folder", ["file/below", "file"])
def test_where_no_secret_can_be_made_the_operator_is_told(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made or read"):
        shared_secret(tmp_path / folder / "secret")


@pytest.mark.parametrize("held", ["", "short", " " * 40])
def test_an_empty_or_short_link_token_is_the_operator_s_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.delenv(LINK_TOKEN_VARIABLE, raising=False)
    (tmp_path / "link_token").write_text(held)
    with pytest.raises(ConfigError, match="link_token holds under 16 characters"):
        link_token(tmp_path)
    monkeypatch.setenv(LINK_TOKEN_VARIABLE, held)
    with pytest.raises(ConfigError, match=f"{LINK_TOKEN_VARIABLE} holds under 16"):
        app.link_token(tmp_path / "other")


def test_an_empty_token_for_ray_is_the_operator_s_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    (tmp_path / "ray_auth_token").touch()
    section = ClusterSection.model_validate({"state_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match="ray_auth_token holds under 16 characters"):
        local_cluster.use_auth_token(section)
