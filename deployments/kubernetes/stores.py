"""The two Valkey servers: of the prefix index, and of Ray's own state.

They are two because they are kept differently: entries of the index give way when memory is
short, and a lost one costs a prefix; of Ray's state nothing may go, and it is written to disk.
"""

import shlex

from cache.store.keys import KEY_PATTERN
from cache.store.server_functions import REQUIRED_COMMANDS
from deployments.kubernetes.objects import (
    HEAD_STORE,
    INDEX_STORE,
    Manifest,
    compute,
    container_security,
    manifest,
    pod_security,
    secret_value,
    store_labels,
)
from deployments.kubernetes.settings import KubernetesSection, StoreSection

VALKEY_PORT = 6379
INDEX_USER = "coterie"
"""ACL user of gateways and engines."""

_VALKEY_USER = 999
_UNITS = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
_DATA_SHARE = 0.75

# No file and no command line has the password: the server is told its digest.
_BEGIN = """\
set -eu
digest="$(printf %s "$PASSWORD" | sha256sum | cut -d' ' -f1)"
exec valkey-server {config} --user {name} reset on "#$digest" {rules}
"""
CONFIG_FILE = "/etc/valkey/valkey.conf"


def index_store(kubernetes: KubernetesSection) -> list[Manifest]:
    """Its clients may do what the index needs, to its keys alone."""
    allowed = [f"+{command}" for command in REQUIRED_COMMANDS.split()]
    begin = begin_script(INDEX_USER, [f"~{KEY_PATTERN}", "-@all", *allowed])
    section = kubernetes.index_store
    lines = ["user default off", "maxmemory-policy allkeys-lfu", *_persistence(section)]
    return _store(kubernetes, INDEX_STORE, section, lines, begin)


def head_store(kubernetes: KubernetesSection, section: StoreSection) -> list[Manifest]:
    """Ray's client is the default user, and may do everything but administer."""
    lines = ["maxmemory-policy noeviction", *_persistence(section)]
    begin = begin_script("default", ["~*", "&*", "+@all", "-@admin", "-@dangerous", "+info"])
    return _store(kubernetes, HEAD_STORE, section, lines, begin)


def begin_script(user: str, rules: list[str], config: str = CONFIG_FILE) -> str:
    """For `sh`, with the password in the variable PASSWORD."""
    return _BEGIN.format(config=config, name=user, rules=shlex.join(rules))


def _persistence(section: StoreSection) -> list[str]:
    if section.storage is None:
        return ["save ''", "appendonly no"]
    return ["save ''", "appendonly yes", "appendfsync everysec"]


def _store(
    kubernetes: KubernetesSection,
    component: str,
    section: StoreSection,
    lines: list[str],
    begin: str,
) -> list[Manifest]:
    name, labels = f"{kubernetes.name}-{component}", store_labels(kubernetes.name, component)
    config = manifest("v1", "ConfigMap", name, kubernetes.name)
    maxmemory = int(_bytes(section.memory) * _DATA_SHARE)
    lines = [f"port {VALKEY_PORT}", "dir /data", f"maxmemory {maxmemory}", *lines]
    config["data"] = {"valkey.conf": "\n".join(lines) + "\n"}
    service: Manifest = {
        "selector": labels,
        "ports": [{"name": "valkey", "port": VALKEY_PORT, "targetPort": "valkey"}],
    }
    volumes: list[Manifest] = [{"name": "config", "configMap": {"name": name}}]
    spec: Manifest = {
        "serviceName": name,
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "securityContext": pod_security(_VALKEY_USER, _VALKEY_USER),
                "automountServiceAccountToken": False,
                "containers": [_container(kubernetes, name, section, begin)],
                "volumes": volumes,
            },
        },
    }
    if section.storage is None:
        volumes.append({"name": "data", "emptyDir": {}})
    else:
        spec["volumeClaimTemplates"] = [_claim(section, section.storage)]
    return [
        config,
        manifest("v1", "Service", name, kubernetes.name, service),
        manifest("apps/v1", "StatefulSet", name, kubernetes.name, spec),
    ]


def _container(
    kubernetes: KubernetesSection, secret: str, section: StoreSection, begin: str
) -> Manifest:
    probe: Manifest = {"tcpSocket": {"port": "valkey"}, "periodSeconds": 5}
    return {
        "name": "valkey",
        "image": kubernetes.valkey_image,
        "command": ["sh", "-c", begin],
        "env": [secret_value("PASSWORD", secret, "password")],
        "ports": [{"name": "valkey", "containerPort": VALKEY_PORT}],
        "resources": compute("500m", section.memory),
        "readinessProbe": dict(probe),
        "livenessProbe": probe | {"failureThreshold": 6},
        "securityContext": container_security() | {"readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/valkey", "readOnly": True},
            {"name": "data", "mountPath": "/data"},
        ],
    }


def _claim(section: StoreSection, storage: str) -> Manifest:
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage}},
    }
    if section.storage_class is not None:
        spec["storageClassName"] = section.storage_class
    return {"metadata": {"name": "data"}, "spec": spec}


def _bytes(quantity: str) -> int:
    """Of a quantity with a binary unit."""
    return int(float(quantity[:-2]) * _UNITS[quantity[-2:]])
