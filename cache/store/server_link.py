"""The connection to a real server: alone or clustered, by what it says of itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from ssl import TLSVersion
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from cache.settings import CacheSection
from cache.store.keys import KEY_PATTERN
from cache.store.link import Command, EpochEndedError, Node, StoreError
from cache.store.server_functions import LIBRARY_TEXT, REQUIRED_COMMANDS
from infra.errors import ConfigError

_ENDED = "EPOCHENDED"
# Words of the commands of one pipeline: what a server does well within `timeout_s`.
_MAX_PIPELINE_WORDS = 8192


class ServerLink:
    """A link to a real server. It connects with the first call."""

    def __init__(self, section: CacheSection, url: str) -> None:
        self._section = section
        self._url = url
        self._alone: Redis | None = None
        self._cluster: RedisCluster | None = None
        self._connecting = asyncio.Lock()

    @property
    def is_clustered(self) -> bool:
        """One call takes keys of one slot alone. Known after the first call."""
        return self._cluster is not None

    async def call_each(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, pipelined; a missing function library is loaded once."""
        results: list[Any] = []
        for some in _pipelines(commands):
            answers = await self._run(some)
            if any(_is_missing_function(answer) for answer in answers):
                await self._load_library()
                answers = await self._run(some)
            results += answers
        for answer in results:
            if isinstance(answer, Exception):
                raise _as_store_error(answer) from answer
        return results

    async def nodes(self) -> list[Node]:
        """All primaries, in the order of their names."""
        async with self._guarded():
            client = await self._client()
            if isinstance(client, Redis):
                return [Node("", (await client.info("server"))["run_id"])]
            found = await asyncio.gather(*(_node_of(client, n) for n in client.get_primaries()))
            return sorted(found, key=lambda node: node.name)

    async def scan(
        self, node: Node, cursor: bytes, pattern: bytes, count: int
    ) -> tuple[bytes, list[bytes]]:
        """One step over a node's keys: the next cursor, `b"0"` at the end, and keys."""
        command = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        async with self._guarded():
            client = await self._client()
            run: Any = client.execute_command
            place = {} if isinstance(client, Redis) else {"target_nodes": _target(client, node)}
            next_cursor, keys = await run(*command, **place)
        if isinstance(next_cursor, dict):
            # What a clustered client makes of the answers of several nodes.
            (next_cursor,) = next_cursor.values()
        return str(next_cursor).encode(), keys

    async def close(self) -> None:
        """Give the connections back; a later call connects anew."""
        alone, cluster, self._alone, self._cluster = self._alone, self._cluster, None, None
        for client in (alone, cluster):
            if client is not None:
                with suppress(RedisError, OSError):
                    await client.aclose()

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        async with self._guarded():
            return await self._pipelined(commands)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Bounded in time. The client's own bounds on it are not used: below Python 3.12
        they can swallow a cancellation."""
        try:
            async with asyncio.timeout(self._section.timeout_s):
                yield
        except (RedisError, OSError) as error:
            # The next call reads the password, and asks for the nodes, anew.
            await self.close()
            raise _as_store_error(error) from error

    async def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        client = await self._client()
        if isinstance(client, Redis):
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command.parts)
            return await pipeline.execute(raise_on_error=False)
        spread = client.pipeline()
        for command in commands:
            node = client.get_node_from_key(command.key.decode("latin-1"))
            spread.execute_command(*command.parts, target_nodes=node)
        return await spread.execute(raise_on_error=False)

    async def _load_library(self) -> None:
        async with self._guarded():
            client = await self._client()
            targets: list[Any] = [None]
            if isinstance(client, RedisCluster):
                targets = list(client.get_primaries())
            for target in targets:
                place = {} if target is None else {"target_nodes": target}
                try:
                    await client.execute_command("FUNCTION LOAD", LIBRARY_TEXT, **place)
                except ResponseError as error:
                    # Another process was first.
                    if "already exists" not in str(error):
                        raise

    async def _client(self) -> Redis | RedisCluster:
        async with self._connecting:
            if self._cluster is not None:
                return self._cluster
            if self._alone is None:
                await self._connect()
            client = self._cluster or self._alone
            assert client is not None
            return client

    async def _connect(self) -> None:
        options = _options(self._section, self._url)
        alone = Redis.from_url(self._url, **options)
        try:
            if not (await alone.info("cluster")).get("cluster_enabled"):
                self._alone = alone
                return
            cluster = RedisCluster.from_url(self._url, **options)
            await cluster.initialize()
            self._cluster = cluster
        finally:
            if self._alone is None:
                await alone.aclose()


async def check_server(section: CacheSection, url: str) -> None:
    """Connect, log in and load the functions.

    Raises ConfigError that says what to change where one of it is not possible.
    """
    link = ServerLink(section, url)
    try:
        await link.nodes()
        await link._load_library()
    except StoreError as error:
        raise ConfigError(f"cache.url: {error}; {_advice(error)}") from error
    finally:
        await link.close()


def _as_store_error(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    # A connection error's text names host and port, and never a password.
    text = str(error) or "the server does not answer in time"
    return EpochEndedError(text) if text.startswith(_ENDED) else StoreError(text)


def _pipelines(commands: Sequence[Command]) -> Iterator[list[Command]]:
    some: list[Command] = []
    num_words = 0
    for command in commands:
        num_words += len(command.parts)
        if some and num_words > _MAX_PIPELINE_WORDS:
            yield some
            some, num_words = [], len(command.parts)
        some.append(command)
    if some:
        yield some


def _is_missing_function(answer: Any) -> bool:
    return isinstance(answer, ResponseError) and "Function not found" in str(answer)


def _advice(error: StoreError) -> str:
    cause = error.__cause__
    if isinstance(cause, AuthenticationError) or "username-password" in str(cause):
        return "give cache.username and the right cache.password_file"
    if isinstance(cause, NoPermissionError):
        return f"allow its user, on keys {KEY_PATTERN}: {REQUIRED_COMMANDS}"
    if isinstance(cause, ResponseError):
        return "Valkey, or Redis 7 or later, is needed"
    return "start the server, or correct the URL"


def _options(section: CacheSection, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": section.username,
        "password": _password(section.password_file),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if url.startswith("rediss:"):
        options |= {
            "ssl_ca_certs": _text(section.ca_file),
            "ssl_certfile": _text(section.certificate_file),
            "ssl_keyfile": _text(section.key_file),
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": TLSVersion.TLSv1_2,
        }
    return options


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        # Without what it holds, which is secret.
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StoreError(f"cache.password_file {path} cannot be read: {reason}") from None
    if not first.strip():
        raise StoreError(f"cache.password_file {path} is empty; write the password there")
    return first.strip()


async def _node_of(client: RedisCluster, node: ClusterNode) -> Node:
    told = await client.info("server", target_nodes=node)
    return Node(node.name, told["run_id"])


def _target(client: RedisCluster, node: Node) -> ClusterNode:
    found = client.get_node(node_name=node.name)
    if found is None:
        raise StoreError(f"{node.name} is no longer a node of the cluster")
    return found
