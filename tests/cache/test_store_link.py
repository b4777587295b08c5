"""The link to real servers: users, TLS, clusters, and what goes wrong."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.settings import CacheSection
from cache.store.keys import KEY_PATTERN
from cache.store.link import StoreError
from cache.store.server_functions import REQUIRED_COMMANDS
from cache.store.server_link import ServerLink, check_server
from cache.types import Change
from deployments.local_cluster import free_ports
from infra.errors import ConfigError
from tests.builders.authority import Authority
from tests.builders.metadata_server import (
    Program,
    Server,
    running,
    running_cluster,
    valkey,
)
from tests.cache.index_world import ALPHABET, World, some_of

PASSWORD = "correct-horse-battery"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


async def drive(world: World, num_rounds: int = 25) -> None:
    """Replicas store and remove, end and begin; then all agree with the twin."""
    choice = random.Random(1)
    for _ in range(num_rounds):
        name = choice.choice("abc")
        world.replica(name).change(some_of(choice), some_of(choice))
        await world.step_replica(choice.choice("abc"))
        await world.step_mirror(choice.randrange(2))
        await world.step_scrubber(choice.randrange(2))
        if choice.random() < 0.1:
            world.replica(name).clear()
        world.check_invariants()
    await world.settle()
    for mirror in world.mirrors:
        assert mirror.state == "current"
        assert world.told_by(mirror) == world.expected()
    await world.scrub_all()
    assert await world.told_by_store() == (world.expected(), set())


def allow(server: Server, commands: str) -> None:
    with server.client() as client:
        rules = ["on", f">{PASSWORD}", f"~{KEY_PATTERN}", "-@all"]
        client.execute_command(
            "ACL SETUSER", "coterie", *rules, *(f"+{name}" for name in commands.split())
        )


async def test_a_user_needs_the_commands_that_are_named_and_no_others(
    server: Server, password_file: Path
) -> None:
    allow(server, REQUIRED_COMMANDS)
    section = CacheSection(
        url="redis://unused", username="coterie", password_file=password_file
    )
    await check_server(section, server.url)
    link = ServerLink(section, server.url)
    await drive(World(link, section))
    with server.client() as client:
        denied = [entry["object"] for entry in client.acl_log()]
    assert denied == []
    await link.close()


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ("-info", "allow its user, on keys {ci*: fcall function|load mget"),
        ("-function|load", "allow its user"),
        (">another", "give cache.username and the right cache.password_file"),
    ],
)
async def test_the_check_says_what_to_change(
    server: Server, password_file: Path, change: str, advice: str
) -> None:
    allow(server, REQUIRED_COMMANDS)
    with server.client() as client:
        reset = ["resetpass"] if change.startswith(">") else []
        client.execute_command("ACL SETUSER", "coterie", *reset, change)
    section = CacheSection(
        url="redis://unused", username="coterie", password_file=password_file
    )
    with pytest.raises(ConfigError) as caught:
        await check_server(section, server.url)
    assert advice in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConfigError, match=f"{port}.*start the server, or correct the URL"):
        await check_server(CacheSection(), f"redis://127.0.0.1:{port}")


async def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    section = CacheSection(url="redis://unused", password_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"cache.password_file .*none cannot be read"):
        await check_server(section, "redis://127.0.0.1:1")


async def test_a_new_password_is_taken_without_a_restart(
    server: Server, password_file: Path
) -> None:
    allow(server, REQUIRED_COMMANDS)
    section = CacheSection(
        url="redis://unused", username="coterie", password_file=password_file
    )
    link = ServerLink(section, server.url)
    world = World(link, section)
    await world.replica("a").publisher.step()
    with server.client() as client:
        client.execute_command("ACL SETUSER", "coterie", "resetpass", ">the-next-password")
        client.client_kill_filter(_type="normal", skipme=True)
    world.replica("a").change({ALPHABET[0]}, set())
    with pytest.raises(StoreError):
        await world.replica("a").publisher.step()
    password_file.write_text("the-next-password")  # noqa: ASYNC240
    await world.settle()
    assert world.told_by(world.mirrors[0]) == world.expected()
    await link.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_server(
    redis_program: Program, short_folder: Path, authority: Authority
) -> Iterator[Server]:
    """It asks its clients for a certificate of the same authority."""
    pair = authority.issue("server")
    files = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    options = ("--tls-port", str(free_ports(1)[0]), "--tls-ca-cert-file", str(authority.file))
    with running(redis_program, short_folder, *files, *options) as server:
        yield server


async def test_it_speaks_tls_with_certificates_of_both_sides(
    tls_server: Server, authority: Authority
) -> None:
    pair = authority.issue("client")
    section = CacheSection(
        url=tls_server.url,
        ca_file=authority.file,
        certificate_file=pair.certificate,
        key_file=pair.key,
    )
    link = ServerLink(section, tls_server.url)
    await drive(World(link, section))
    await link.close()


async def test_a_server_of_an_unknown_authority_is_not_spoken_to(
    tls_server: Server, authority: Authority, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pair = authority.issue("client")
    section = CacheSection(
        url=tls_server.url,
        ca_file=Authority(other).file,
        certificate_file=pair.certificate,
        key_file=pair.key,
    )
    with pytest.raises(ConfigError, match="certificate verify failed"):
        await check_server(section, tls_server.url)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_in_a_cluster_every_call_stays_in_one_slot(
    kind: str, request: pytest.FixtureRequest, short_folder: Path, password_file: Path
) -> None:
    program = valkey() if kind == "valkey" else request.getfixturevalue("redis_program")
    with running_cluster(program, short_folder, free_ports(6)) as servers:
        for server in servers:
            allow(server, REQUIRED_COMMANDS)
        section = CacheSection(
            url=servers[1].url, username="coterie", password_file=password_file
        )
        await check_server(section, servers[1].url)
        link = ServerLink(section, servers[1].url)
        world = World(link, section)
        # Blocks of all shards, and so of all nodes.
        shards = np.arange(256, dtype=np.uint64) << np.uint64(56)
        everywhere = shards | np.uint64(9)
        replica = world.replica("wide")
        replica.blocks = set(everywhere.tolist())
        await replica.publisher.step()
        chain = shards[100] + np.arange(1, 301, dtype=np.uint64)
        replica.blocks |= set(chain.tolist())
        replica.publisher.publish(Change(0, chain, chain[:0]))
        replica.seq = 1
        await drive(world)
        store = world.store()
        assert link.is_clustered
        await store.registry()
        assert len(await store.masks_of(chain)) == len(chain)
        for server in servers:
            with server.client() as client:
                assert client.dbsize() > 50
                assert client.acl_log() == []
        await link.close()


async def test_a_full_server_that_evicts_nothing_is_an_error_and_no_end(
    server: Server,
) -> None:
    section = CacheSection()
    link = ServerLink(section, server.url)
    world = World(link, section)
    replica = world.replica("a")
    await replica.publisher.step()
    with server.client() as client:
        client.config_set("maxmemory", 1)
        replica.change({ALPHABET[0]}, set())
        with pytest.raises(StoreError, match=r"OOM|maxmemory"):
            await replica.publisher.step()
        client.config_set("maxmemory", 0)
    await world.settle()
    assert world.told_by(world.mirrors[0]) == world.expected()
    await link.close()
