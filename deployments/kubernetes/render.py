"""From a configuration to files of manifests: what `coterie manifests` writes.

Everything is decided here; nothing is asked of a cluster. Raises ConfigError for what cannot
run on Kubernetes as it is written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cache.settings import CacheSection
from deployments.kubernetes import kustomize
from deployments.kubernetes.groups import PodGroup, plan_groups
from deployments.kubernetes.network import network_policies
from deployments.kubernetes.objects import HEAD_STORE, INDEX_STORE, Manifest
from deployments.kubernetes.pods import STATE_DIR, PodPlan
from deployments.kubernetes.ray_service import ray_service
from deployments.kubernetes.services import gateway_service, headless_service, routes
from deployments.kubernetes.settings import KubernetesSection
from deployments.kubernetes.stores import INDEX_USER, VALKEY_PORT, head_store, index_store
from deployments.kubernetes.texts import text_of
from deployments.kubernetes.watching import (
    alerts,
    dashboard_maps,
    disruption_budgets,
    monitors,
)
from deployments.settings import GatewaySection, ModelSection
from infra.errors import ConfigError
from infra.loopback import is_loopback
from infra.telemetry.settings import TelemetrySection

INDEX_PASSWORD_FILE = "/etc/coterie/index/password"


class Rendering:
    """Of one configuration."""

    def __init__(self, sections: Mapping[str, Any], kubernetes: KubernetesSection) -> None:
        """`sections` as the file gives them, without defaults; they hold."""
        self._sections = sections
        self._gateway = GatewaySection.model_validate(sections.get("gateway", {}))
        self._models = [ModelSection.model_validate(each) for each in sections["models"]]
        self._cache = CacheSection.model_validate(sections.get("cache", {}))
        telemetry = TelemetrySection.model_validate(sections.get("telemetry", {}))
        self._has_index_store = self._cache.enabled and self._cache.url is None
        if self._has_index_store:
            store = f"{kubernetes.name}-{INDEX_STORE}"
            files = {INDEX_PASSWORD_FILE: store} | kubernetes.files
            kubernetes = kubernetes.model_copy(update={"files": files})
        self._kubernetes = kubernetes
        url = self._cache.url if self._cache.enabled else None
        self._plan = PodPlan(self._gateway, telemetry, kubernetes, url)
        self.groups: list[PodGroup] = plan_groups(self._gateway, self._models, kubernetes)
        """Of pods, the gateways' first."""
        self._check()

    @property
    def secrets(self) -> dict[str, list[str]]:
        """Those that must be there: their keys."""
        kubernetes = self._kubernetes
        found = {kubernetes.link_secret: ["token"], kubernetes.ray_token_secret: ["auth_token"]}
        for path, secret in kubernetes.files.items():
            found.setdefault(secret, []).append(path.rsplit("/", 1)[1])
        if kubernetes.head_store is not None:
            found[f"{kubernetes.name}-{HEAD_STORE}"] = ["password"]
        return found

    def files(self) -> dict[str, str]:
        """Texts by their paths in the folder of manifests."""
        groups, plan, kubernetes = self.groups, self._plan, self._kubernetes
        parts: dict[str, list[Manifest]] = {
            "rayservice.yaml": [ray_service(plan, groups, self._arguments())],
            "services.yaml": [
                gateway_service(plan, groups[0]),
                headless_service(plan, groups[0]),
                *routes(plan),
            ],
            "network-policies.yaml": network_policies(plan, groups[0]),
            "disruption-budgets.yaml": disruption_budgets(plan, groups),
            "monitors.yaml": [*monitors(plan, groups[0]), *alerts(plan)],
            "dashboards.yaml": dashboard_maps(plan),
            "index-store.yaml": index_store(kubernetes) if self._has_index_store else [],
            "head-store.yaml": (
                head_store(kubernetes, kubernetes.head_store) if kubernetes.head_store else []
            ),
        }
        found = {name: text_of(*made) for name, made in parts.items() if made}
        texts = {f"base/{name}": text for name, text in found.items()}
        texts["base/kustomization.yaml"] = text_of(kustomize.base(kubernetes, sorted(found)))
        for name, overlay in (("dev", kustomize.dev_overlay), ("gpu", kustomize.gpu_overlay)):
            texts[f"overlays/{name}/kustomization.yaml"] = text_of(overlay(kubernetes, groups))
        return texts

    def _arguments(self) -> dict[str, Any]:
        """The application's: the file's sections, and what is known of the cluster."""
        sections = {k: v for k, v in self._sections.items() if k != "kubernetes"}
        cluster = {"address": "auto", "state_dir": STATE_DIR, "node_groups": True}
        sections["cluster"] = sections.get("cluster", {}) | cluster
        if self._has_index_store:
            server = f"redis://{self._kubernetes.name}-{INDEX_STORE}:{VALKEY_PORT}"
            login = {"username": INDEX_USER, "password_file": INDEX_PASSWORD_FILE}
            sections["cache"] = sections.get("cache", {}) | {"url": server} | login
        return sections

    def _check(self) -> None:
        gateway, telemetry = self._gateway, self._plan.telemetry
        if is_loopback(gateway.host):
            raise ConfigError(
                f"gateway.host is {gateway.host}, which nothing outside a pod reaches; write "
                "0.0.0.0 (or '::'), with gateway.api_keys_file or allow_anonymous"
            )
        if telemetry.metrics_port is not None and is_loopback(telemetry.metrics_host):
            raise ConfigError(
                f"telemetry.metrics_host is {telemetry.metrics_host}, which Prometheus does "
                "not reach; write 0.0.0.0"
            )
        needed: dict[str, object] = {
            "gateway.api_keys_file": gateway.api_keys_file,
            "gateway.tls.certificate_file": gateway.tls and gateway.tls.certificate_file,
            "gateway.tls.key_file": gateway.tls and gateway.tls.key_file,
            "gateway.tls.client_ca_file": gateway.tls and gateway.tls.client_ca_file,
            "telemetry.otlp_headers_file": telemetry.otlp_headers_file,
            "cache.password_file": self._cache.password_file,
            "cache.ca_file": self._cache.ca_file,
            "cache.certificate_file": self._cache.certificate_file,
            "cache.key_file": self._cache.key_file,
        } | dict(entry for model in self._models for entry in _model_files(model))
        for key, path in needed.items():
            if path is not None and not self._is_mounted(str(path)):
                raise ConfigError(
                    f"{key} is {path}, and pods have no such file; name the Secret that has "
                    f"it, `kubernetes.files: {{{path}: SECRET}}`, or mount a volume there "
                    "(kubernetes.volumes)"
                )

    def _is_mounted(self, path: str) -> bool:
        kubernetes = self._kubernetes
        folders = [volume.folder for volume in kubernetes.volumes]
        return path in kubernetes.files or any(f"{path}/".startswith(f"{f}/") for f in folders)


def _model_files(model: ModelSection) -> Iterator[tuple[str, object]]:
    """Keys, and what they name. Built-in names and hub ids are no files."""
    place = f"models.{model.name}"
    yield f"{place}.chat_template_file", model.chat_template_file
    named = {
        "model": model.model,
        "speculation.draft.model": model.speculation.draft.model,
        **{f"adapters.{name}": path for name, path in model.adapters.items()},
    }
    for key, reference in named.items():
        if reference is not None and reference.startswith("/"):
            yield f"{place}.{key}", reference
