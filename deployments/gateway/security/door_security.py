"""What keeps strangers out of both doors: keys, certificates, and their renewal."""

import asyncio
import ssl
from collections.abc import Callable, Collection
from typing import Any

import grpc

from deployments.gateway.security.file_watch import Refreshed, watch
from deployments.gateway.security.grpc_guard import GrpcGuard
from deployments.gateway.security.guard import Guard
from deployments.gateway.security.key_file import KeyFile
from deployments.gateway.security.tls import TlsFiles
from deployments.settings import GatewaySection


class DoorSecurity:
    """Guard and TLS by the configuration; files that change are taken while it runs.

    `known_tenants` are the tenants that keys may be for; None is any.
    """

    def __init__(
        self, section: GatewaySection, known_tenants: Collection[str] | None = None
    ) -> None:
        """Reads the files. Raises ConfigError that names the key at fault."""
        path = section.api_keys_file
        self._keys = None if path is None else KeyFile(path, known_tenants)
        self._tls = None if section.tls is None else TlsFiles(section.tls)
        self._watch: asyncio.Task[None] | None = None
        self.guard = Guard(self._keys)

    def grpc_interceptor(self) -> grpc.aio.ServerInterceptor:
        """To be the first that a call meets."""
        return GrpcGuard(self.guard)

    def add_grpc_port(self, server: grpc.aio.Server, address: str) -> int:
        """The port that the server will listen on. Raises RuntimeError where it is taken."""
        if self._tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._tls.grpc_credentials())

    def http_context_factory(self) -> Callable[[Any, Any], ssl.SSLContext] | None:
        """What uvicorn takes for TLS; None for plain text."""
        if self._tls is None:
            return None
        context = self._tls.http_context
        return lambda _config, _default: context

    def start(self) -> None:
        """Look after the files from now on, in the running loop."""
        sources: list[Refreshed] = [s for s in (self._keys, self._tls) if s is not None]
        if sources:
            self._watch = asyncio.create_task(watch(sources))

    def stop(self) -> None:
        """Look no longer."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
