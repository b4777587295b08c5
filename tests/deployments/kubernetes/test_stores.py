"""The servers' own start scripts, run by a real server."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError

from cache.settings import CacheSection
from cache.store.server_link import check_server
from deployments.kubernetes.settings import KubernetesSection, StoreSection
from deployments.kubernetes.stores import CONFIG_FILE, INDEX_USER, head_store, index_store
from deployments.local_cluster import free_ports
from deployments.metadata_server import server_binary

PASSWORD = "not a word that anyone would guess"


@contextmanager
def serving(objects: list[dict[str, object]], folder: Path) -> Iterator[int]:
    """The server that the pod of these objects runs, at this port."""
    [config, _, stateful_set] = objects
    [port] = free_ports(1)
    lines = str(config["data"]["valkey.conf"])  # type: ignore[index]
    file = folder / "valkey.conf"
    file.write_text(lines.replace("port 6379", f"port {port}\nbind 127.0.0.1"))
    file.write_text(file.read_text().replace("dir /data", f"dir {folder}"))
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "valkey-server").symlink_to(server_binary())
    [container] = stateful_set["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
    assert container["command"][:2] == ["sh", "-c"]
    script = container["command"][2].replace(CONFIG_FILE, str(file))
    server = subprocess.Popen(
        ["sh", "-c", script],
        env={"PATH": f"{binaries}:{os.environ['PATH']}", "PASSWORD": PASSWORD},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(port, server)
        command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in command_line
        yield port
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            redis.Redis(port=port).ping()
        except AuthenticationError:
            return
        except redis.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer, or answers anybody")


async def test_the_indexs_user_may_do_what_the_index_needs_and_no_more(tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD + "\n")
    with serving(index_store(KubernetesSection()), tmp_path) as port:
        url = f"redis://127.0.0.1:{port}"
        section = CacheSection(url=url, username=INDEX_USER, password_file=password_file)
        await check_server(section, url)
        client: Any = redis.Redis(port=port, username=INDEX_USER, password=PASSWORD)
        for command in ("FLUSHALL", "CONFIG GET *", "KEYS *", "ACL LIST", "SHUTDOWN"):
            with pytest.raises(NoPermissionError):
                client.execute_command(command)
        with pytest.raises(NoPermissionError):
            client.set("another's", "key")
        memory = client.info("memory")
        assert memory["maxmemory"] == 768 * 1024**2
        assert memory["maxmemory_policy"] == "allkeys-lfu"


def test_the_heads_store_keeps_everything_on_disk(tmp_path: Path) -> None:
    section = StoreSection(memory="512Mi", storage="1Gi")
    with serving(head_store(KubernetesSection(), section), tmp_path) as port:
        client: Any = redis.Redis(port=port, password=PASSWORD)
        client.hset("RAY", "key", "value")
        for command in ("CONFIG SET appendonly no", "FLUSHALL", "SHUTDOWN"):
            with pytest.raises(NoPermissionError):
                client.execute_command(command)
        assert client.info("persistence")["aof_enabled"] == 1
        assert client.info("memory")["maxmemory_policy"] == "noeviction"
