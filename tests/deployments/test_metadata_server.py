"""The embedded metadata server: started, found again, restarted, ended."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from cache.settings import CacheSection
from deployments import metadata_server
from deployments.metadata_server import MetadataServer, ensure, find, stop
from deployments.settings import ClusterSection
from infra.errors import ConfigError

SECTION = CacheSection(max_memory_bytes=32 * 1024 * 1024)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterSection]:
    cluster = ClusterSection(state_dir=tmp_path)
    yield cluster
    server = find(cluster)
    stop(cluster)
    assert server is None or not server.is_alive
    assert server is None or not Path(server.folder).exists()
    assert not list(tmp_path.glob("metadata-*.json"))


def client(server: MetadataServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url)


def processes(server: MetadataServer) -> list[psutil.Process]:
    keeper = psutil.Process(server.pid)
    return [keeper, *keeper.children()]


def wait_for_another(server: MetadataServer, old_pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with client(server) as connection:
                if connection.info("server")["process_id"] != old_pid:
                    return
        except redis.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come back")


def test_its_owner_alone_reaches_it_and_it_has_no_port(cluster: ClusterSection) -> None:
    server = ensure(cluster, SECTION)
    assert stat.S_IMODE(Path(server.folder).stat().st_mode) == 0o700
    with client(server) as connection:
        settings = connection.config_get()
        assert connection.ping()
    assert settings["port"] == "0"
    assert settings["maxmemory"] == str(SECTION.max_memory_bytes)
    assert settings["maxmemory-policy"] == "allkeys-lfu"
    assert settings["save"] == ""


def test_the_next_start_finds_it_with_what_it_has(cluster: ClusterSection) -> None:
    server = ensure(cluster, SECTION)
    with client(server) as connection:
        connection.set("key", "value")
    assert ensure(cluster, SECTION) == find(cluster) == server
    with client(server) as connection:
        assert connection.get("key") == b"value"


def test_other_settings_replace_it(cluster: ClusterSection) -> None:
    server = ensure(cluster, SECTION)
    other = ensure(cluster, SECTION.model_copy(update={"max_memory_bytes": 64 * 1024 * 1024}))
    assert not server.is_alive
    assert not Path(server.folder).exists()
    with client(other) as connection:
        assert connection.config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)


def test_it_is_started_again_when_it_is_killed(cluster: ClusterSection) -> None:
    server = ensure(cluster, SECTION)
    _, valkey = processes(server)
    valkey.kill()
    wait_for_another(server, valkey.pid)


def test_its_end_leaves_no_process_and_no_folder(cluster: ClusterSection) -> None:
    server = ensure(cluster, SECTION)
    members = processes(server)
    assert len(members) == 2
    stop(cluster)
    assert not any(process.is_running() for process in members)
    assert not Path(server.folder).exists()
    assert find(cluster) is None
    stop(cluster)


def test_what_does_not_start_leaves_nothing(
    cluster: ClusterSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_server, "server_binary", lambda: Path("/bin/false"))
    monkeypatch.setattr(metadata_server, "_START_TIMEOUT_S", 0.5)
    with pytest.raises(ConfigError, match="the metadata server did not start"):
        ensure(cluster, SECTION)
    assert find(cluster) is None


def test_a_record_that_cannot_be_read_is_named(cluster: ClusterSection) -> None:
    record = cluster.state_dir / "metadata-coterie.json"
    record.write_text("{")
    with pytest.raises(ConfigError, match=r"metadata-coterie\.json is no record"):
        find(cluster)
    record.unlink()
