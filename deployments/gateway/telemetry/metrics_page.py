"""`/metrics`: all gateway replicas of this node in one answer.

They share their ports, so the kernel hands a scrape to any one of them. Each
replica therefore also answers on a Unix socket in a folder of its application, and
the one that is scraped asks the others there and answers for all. The label
`replica` tells them apart, so that each counter has one source.
"""

import asyncio
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from infra.errors import ConfigError

log = logging.getLogger(__name__)

PEER_TIMEOUT_S = 2.0
REPLICA_LABEL = "replica"
# When a series began: optional, as large as the rest together, and read by few.
_CREATED = "_created"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples, as it travels between replicas."""

    name: str
    words: str
    kind: str
    samples: list[Sample]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Family])


def peer_folder(secret: str, app_name: str) -> Path:
    """Where the replicas of one application on one node find each other. Its name
    cannot be guessed by those who do not know the secret.
    """
    digest = hashlib.sha256(f"metrics {app_name} {secret}".encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"coterie-{os.getuid()}-{digest[:16]}"


class MetricsPage:
    """Answers scrapes, and the other replicas of the node."""

    def __init__(self, registry: CollectorRegistry, folder: Path, replica: str) -> None:
        self._registry = registry
        self._folder = folder
        self._replica = replica
        self._socket = folder / f"{replica}.sock"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the other replicas. Raises ConfigError for a folder of someone else."""
        while self._server is None:
            self._make_folder()
            # A replica that ended may have taken the folder away in between.
            with suppress(FileNotFoundError):
                self._server = await self._listen()

    async def _listen(self) -> asyncio.Server:
        """A server that listens before the others find its socket: one that refuses is
        taken for a dead replica's. Raises FileNotFoundError without the folder.
        """
        hidden = self._socket.with_suffix(".new")
        server = await asyncio.start_unix_server(self._answer_peer, hidden)
        try:
            hidden.rename(self._socket)
        except FileNotFoundError:
            server.close()
            raise
        return server

    async def stop(self) -> None:
        """Answer nobody any more; the last replica takes the folder away."""
        if self._server is not None:
            self._server.close()
        self._socket.unlink(missing_ok=True)
        # Asked only to find those that were killed, whose sockets are in the way.
        await self._ask_others()
        with suppress(OSError):
            self._folder.rmdir()

    async def answer(self, request: Request) -> Response:
        """One scrape, in the format that `Accept` asks for."""
        body, content_type = await self.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type."""
        answers = await self._ask_others()
        families = _merged([self._own(), *answers])
        encode, content_type = choose_encoder(accept)
        return encode(_Collected(families)), content_type

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{self._folder} belongs to someone else; remove it")
        self._socket.unlink(missing_ok=True)

    def _own(self) -> list[Family]:
        return [
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                [
                    Sample(s.name, {**s.labels, REPLICA_LABEL: self._replica}, s.value)
                    for s in metric.samples
                    if not s.name.endswith(_CREATED)
                ],
            )
            for metric in self._registry.collect()
        ]

    async def _answer_peer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(_encoder.encode(self._own()))
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def _ask_others(self) -> list[list[Family]]:
        others = [path for path in self._folder.glob("*.sock") if path != self._socket]
        answers = await asyncio.gather(*(self._ask(path) for path in others))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, path: Path) -> list[Family] | None:
        """What another replica has; None where it is gone or does not answer."""
        try:
            async with asyncio.timeout(PEER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return _decoder.decode(await reader.read())
                finally:
                    writer.close()
        except (ConnectionRefusedError, FileNotFoundError):
            # Killed: nobody listens there, nor ever will again.
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except (OSError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("no metrics of replica %s: %s", path.stem, error or "no answer")
        return None


class _Collected(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.words, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _merged(pages: Iterable[list[Family]]) -> list[Family]:
    """One family of each name, as the format wants it, with the samples of all pages."""
    by_name: dict[str, Family] = {}
    for page in pages:
        for family in page:
            known = by_name.setdefault(
                family.name, Family(family.name, family.words, family.kind, [])
            )
            known.samples.extend(family.samples)
    return list(by_name.values())
