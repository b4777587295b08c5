"""The file of keys: written whole, read anew when it changes, by whatever way it does."""

import asyncio
import errno
import logging
import os
import stat
from pathlib import Path

import pytest

from deployments.gateway.security.api_keys import KeyEntry, new_key, sha256_of
from deployments.gateway.security.file_watch import signature_of, watch
from deployments.gateway.security.key_file import KeyFile, changing, read_entries
from infra.errors import ConfigError, UnauthenticatedError


def add(path: Path, tenant: str = "acme", **fields: object) -> str:
    key = new_key()
    made = KeyEntry.model_validate({"tenant": tenant, "sha256": sha256_of(key)} | fields)
    with changing(path) as entries:
        entries.append(made)
    return key


def tenant_of(file: KeyFile, key: str) -> str | None:
    try:
        return file.ring.grant_of(key, 0.0).tenant
    except UnauthenticatedError:
        return None


def test_a_written_file_reads_back_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add(path, label="a: b # c", expires="2030-01-01")
    add(path, "globex", is_operator=True)
    first, second = read_entries(path)
    assert (first.tenant, first.label, second.is_operator) == ("acme", "a: b # c", True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys.yaml"]


def test_a_changed_file_keeps_its_mode_so_that_the_gateway_s_user_still_reads_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.yaml"
    add(path)
    path.chmod(0o640)
    add(path, "globex")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["keys.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_changed_file_keeps_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add(path)
    os.chown(path, 12345, 23456)
    add(path, "globex")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = add(path)
    assert key not in path.read_text()
    assert key.removeprefix("ct-") not in path.read_text()


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no"), changing(path) as entries:
        entries.clear()
        raise ValueError("no")
    assert path.read_bytes() == before


def test_new_keys_are_taken_and_removed_ones_refused_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    old = add(path)
    file = KeyFile(path)
    new = add(path, "globex")
    file.refresh()
    assert (tenant_of(file, old), tenant_of(file, new)) == ("acme", "globex")
    with changing(path) as entries:
        del entries[0]
    file.refresh()
    assert (tenant_of(file, old), tenant_of(file, new)) == (None, "globex")


def test_the_swap_of_a_link_is_seen_as_kubernetes_does_it(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
    old, new = add(tmp_path / "one" / "keys.yaml"), add(tmp_path / "two" / "keys.yaml")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    file = KeyFile(tmp_path / "keys.yaml")
    assert tenant_of(file, old) == "acme"
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    file.refresh()
    assert (tenant_of(file, old), tenant_of(file, new)) == (None, "acme")


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("keys.yaml")
    add(tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink()
    assert len(read_entries(tmp_path / "keys.yaml")) == 1


@pytest.mark.parametrize("content", ["keys: [", "keys:\n- tenant: acme\n", "kyes: []\n", None])
def test_a_broken_file_leaves_the_keys_and_is_complained_of_once(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    key = add(path)
    file = KeyFile(path)
    path.unlink()
    if content is not None:
        path.write_text(content)
    file.refresh()
    file.refresh()
    assert tenant_of(file, key) == "acme"
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert "the old keys stay" in caplog.text
    other = add(tmp_path / "other.yaml")
    (tmp_path / "other.yaml").replace(path)
    file.refresh()
    assert tenant_of(file, other) == "acme"


def test_a_revocation_is_taken_though_the_file_could_not_be_read_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    key = add(path)
    file = KeyFile(path)
    path.write_text("keys: []\n")
    with monkeypatch.context() as denied:
        denied.setattr(Path, "read_text", _raise_no_access)
        file.refresh()
        file.refresh()
    assert tenant_of(file, key) == "acme"
    assert caplog.text.count("the old keys stay") == 1
    file.refresh()
    assert tenant_of(file, key) is None


def _raise_no_access(*_: object, **__: object) -> str:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_of_the_same_size_and_time_is_seen_to_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("one")
    before, found = signature_of(path), path.stat()
    path.write_text("two")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert signature_of(path) != before


def test_a_tenant_that_the_configuration_does_not_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add(path, "acme")
    assert len(KeyFile(path, ["acme", "globex"]).ring) == 1
    with pytest.raises(ConfigError, match=r"api_keys_file: .* acme, which .* names globex"):
        KeyFile(path, ["globex"])


def test_a_missing_file_names_the_key_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.api_keys_file: .*key new TENANT"):
        KeyFile(tmp_path / "none.yaml")


async def test_the_watch_goes_on_after_a_source_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def refresh(self) -> None:
            raise RuntimeError("odd")

    path = tmp_path / "keys.yaml"
    add(path)
    file = KeyFile(path)
    task = asyncio.create_task(watch([Failing(), file], period_s=0.01))
    key = add(path, "globex")
    async with asyncio.timeout(10):
        while tenant_of(file, key) is None:
            await asyncio.sleep(0.01)
    task.cancel()
    assert "odd" in caplog.text
