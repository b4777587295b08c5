"""The configuration of a cluster: one file, one section for each room that reads one."""

import os
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from cache.settings import CacheSection
from coterie.hints import hinting
from deployments.kubernetes.settings import KubernetesSection
from deployments.settings import ClusterSection, GatewaySection, ModelSection
from infra.errors import ConfigError
from infra.section import Section
from infra.section_file import parse_section
from infra.strict_yaml import Document, read_yaml, read_yaml_file
from infra.telemetry.settings import TelemetrySection
from router.settings import AdmissionSection, RouterSection, TenantSection

CONFIG_VARIABLE = "COTERIE_CONFIG"
"""Environment variable with the path of the configuration file."""

CONFIG_HINT = "`coterie config --help` explains the configuration file"
"""What to type next where it does not hold."""

BUILT_IN = "laptop-cpu.yaml"
"""The example that is served where no file is named."""


class Config(Section):
    """Everything that a cluster is told."""

    models: Annotated[list[ModelSection], Field(min_length=1)]
    """The models to serve, each under a name of its own."""

    cluster: ClusterSection = ClusterSection()
    """The Ray cluster underneath."""

    gateway: GatewaySection = GatewaySection()
    """The door: gRPC and HTTP, tokenization, streaming."""

    router: RouterSection = RouterSection()
    """Which engine replica takes a request."""

    cache: CacheSection = CacheSection()
    """The index of who has which prefix cached, and the server that keeps it."""

    admission: AdmissionSection = AdmissionSection()
    """How many requests may wait, how long, and what is kept free for whom."""

    tenants: list[TenantSection] = []
    """Who may ask, and how much; see `gateway.api_keys_file`."""

    telemetry: TelemetrySection = TelemetrySection()
    """What is told of requests: traces, metrics, logs, usage records."""

    kubernetes: KubernetesSection = KubernetesSection()
    """What `coterie manifests` makes pods of; nothing else reads it."""

    @field_validator("models")
    @classmethod
    def _each_name_once(cls, models: list[ModelSection]) -> list[ModelSection]:
        names = Counter(name for model in models for name in (model.name, *model.adapters))
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(
                f"more than one model or adapter is named {', '.join(repeated)}; "
                "clients choose by name, so give each its own"
            )
        return models

    @field_validator("tenants")
    @classmethod
    def _each_tenant_once(cls, tenants: list[TenantSection]) -> list[TenantSection]:
        names = Counter(tenant.name for tenant in tenants)
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(
                f"more than one tenant is named {', '.join(repeated)}; give each its own name"
            )
        return tenants

    @model_validator(mode="after")
    def _metrics_have_a_port_of_their_own(self) -> "Config":
        port = self.telemetry.metrics_port
        if port in (self.gateway.grpc_port, self.gateway.http_port):
            raise ValueError(
                f"telemetry.metrics_port is a port of the gateway too, {port}; choose another"
            )
        return self


def load_config(path: Path | None = None) -> Config:
    """The configuration in a file.

    Without a path: the file that COTERIE_CONFIG names, else the built-in
    configuration, which serves a small model on this machine's CPU.

    Raises:
        ConfigError: the file cannot be read or does not hold; the message has
            one line for each problem, with its place in the file.
    """
    with hinting(ConfigError, CONFIG_HINT):
        return parse_section(Config, _document(path))


def config_source(path: Path | None = None) -> str:
    """What `load_config` would read, for messages."""
    chosen = _chosen_file(path)
    return "the built-in configuration" if chosen is None else str(chosen)


def _document(path: Path | None) -> Document:
    chosen = _chosen_file(path)
    if chosen is not None:
        return read_yaml_file(chosen)
    text = files("deployments").joinpath("examples", BUILT_IN).read_text(encoding="utf-8")
    return read_yaml(text, BUILT_IN)


def _chosen_file(path: Path | None) -> Path | None:
    if path is not None:
        return path
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named).expanduser() if named else None
