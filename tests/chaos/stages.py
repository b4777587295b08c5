"""The clusters that things befall, and what does: each has at least two of what fails alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployments.settings import ClusterSection
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.ray_nodes import RayNodes
from tests.builders.small_llama import write_small_llama
from tests.builders.small_moe import write_small_moe
from tests.chaos.events import (
    Event,
    Victims,
    controller,
    core_of,
    metadata_server,
    rank_of,
    replica_of,
    several,
)

_GATEWAY = {"num_replicas": 2, "drain_timeout_s": 30}
_ENGINE: dict[str, Any] = {
    # In bfloat16 a near tie falls differently in another batch, with or without a failure.
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 64 * 1024**2,
    "health_timeout_s": 10,
    "drain_timeout_s": 30,
}
_NODES = "chaosnodes"


@dataclass(frozen=True)
class Stage:
    """A cluster, the models that are asked, and what befalls it."""

    name: str
    models: tuple[str, ...]
    events: list[Event]
    cluster: Callable[[Path], AbstractContextManager[RunningCluster]]
    """Of a folder, where its files may be."""


def stages() -> list[Stage]:
    """All of them."""
    return [_dense(), _parallel(), _experts(), _drafts(), _nodes()]


def _dense() -> Stage:
    """Two gateways, two engines, and what they lean on."""
    victims: dict[str, Victims] = {
        "gateway": replica_of("gateway"),
        "engine replica": replica_of("engine-small"),
        "engine core": core_of("engine-small"),
        "metadata server": metadata_server,
        "serve controller": controller,
    }
    hows = {
        "gateway": ("kill", "stop", "slow", "hang", "cut", "part"),
        "engine replica": ("kill", "cut", "part"),
        "engine core": ("kill", "stop", "slow", "hang"),
        "metadata server": ("kill", "stop", "cut", "part"),
        "serve controller": ("kill", "stop", "cut"),
    }

    @contextmanager
    def cluster(folder: Path) -> Iterator[RunningCluster]:
        engine = _ENGINE | {
            "name": "small",
            "model": _small_llama(folder),
            "num_replicas": 2,
            # One core for both, and the rest for gateways and for replicas that start.
            "cpu_cores_per_rank": [[max(os.sched_getaffinity(0))]],
        }
        with _running(folder, "chaos", engine) as running:
            yield running

    return Stage("dense", ("small",), several(hows, victims), cluster)


def _parallel() -> Stage:
    """Two engines of two tensor-parallel ranks."""
    hows = {"tensor-parallel rank": ("kill", "stop", "hang", "cut")}

    @contextmanager
    def cluster(folder: Path) -> Iterator[RunningCluster]:
        cores = sorted(os.sched_getaffinity(0))
        engine = _ENGINE | {
            "name": "parallel",
            "model": _small_llama(folder),
            "num_replicas": 2,
            "tensor_parallel_size": 2,
            # Ranks wait for each other without a rest, here two to a core.
            "health_timeout_s": 30,
            "cpu_cores_per_rank": [[cores[0]], [cores[-1]]],
        }
        with _running(folder, "chaosranks", engine) as running:
            yield running

    victims = {"tensor-parallel rank": rank_of("engine-parallel")}
    return Stage("parallel", ("parallel",), several(hows, victims), cluster)


def _experts() -> Stage:
    """Two expert hosts with a copy of each expert, and their director."""
    victims = {
        "expert host": replica_of("experts-tiered"),
        "expert director": replica_of("director-tiered"),
    }
    hows = {
        "expert host": ("kill", "stop", "slow", "hang", "cut", "part"),
        "expert director": ("kill", "stop", "cut"),
    }

    @contextmanager
    def cluster(folder: Path) -> Iterator[RunningCluster]:
        experts = {
            "placement": "service",
            "num_hosts": 2,
            "slots_per_host": 4,
            "rebalance": {"min_copies": 2, "min_interval_s": 5.0},
        }
        moe = str(write_small_moe(folder / "small-moe"))
        model = {"name": "tiered", "model": moe, "max_model_len": 512, "experts": experts}
        with _running(folder, "chaosexperts", _ENGINE | model) as running:
            yield running

    return Stage("experts", ("tiered",), several(hows, victims), cluster)


def _drafts() -> Stage:
    """A draft replica, which foresees all that its engine says."""
    hows = {"draft replica": ("kill", "stop", "slow", "cut", "part")}

    @contextmanager
    def cluster(folder: Path) -> Iterator[RunningCluster]:
        llama = _small_llama(folder)
        speculation = {
            "drafters": ["draft_model"],
            "draft": {"model": llama, "ahead_tokens": 4, "precision": "full"},
            "max_tokens": 4,
            "length": "fixed",
        }
        model = {"name": "drafted", "model": llama, "speculation": speculation}
        with _running(folder, "chaosdrafts", _ENGINE | model) as running:
            yield running

    victims = {"draft replica": replica_of("drafts-drafted")}
    return Stage("drafts", ("drafted",), several(hows, victims), cluster)


def _nodes() -> Stage:
    """Nodes of one engine each, and a spare one, whose head and gateways stay."""

    def raylet(cluster: RunningCluster) -> list[psutil.Process]:
        return [p for p in _members(_node_of_first_engine(cluster)) if p.name() == "raylet"]

    def node(cluster: RunningCluster) -> list[psutil.Process]:
        return _members(_node_of_first_engine(cluster))

    victims = {"raylet of a node": raylet, "node": node}
    hows = {"raylet of a node": ("kill",), "node": ("stop", "hang", "kill", "cut", "part")}

    @contextmanager
    def cluster(folder: Path) -> Iterator[RunningCluster]:
        section = ClusterSection(app_name=_NODES, state_dir=str(STATE_DIR), num_cpus=1)  # type: ignore[arg-type]
        engine = _ENGINE | {"name": "small", "model": _small_llama(folder), "num_replicas": 2}
        where = {"app_name": _NODES, "state_dir": str(STATE_DIR), "node_groups": True}
        with RayNodes(section, drain_s=30) as nodes:
            nodes.add(gateway=2)
            # Each that fails for good takes its place along.
            for _ in range(6):
                nodes.add(**{"engine-small": 1})
            sections = {"cluster": where, "gateway": _GATEWAY, "models": [engine]}
            with RunningCluster(folder, _NODES, **sections) as running:
                yield running

    return Stage("nodes", ("small",), several(hows, victims), cluster)


def _node_of_first_engine(cluster: RunningCluster) -> psutil.Process:
    """The `ray start` of the node that it runs on."""
    pid = cluster.status()["engine-small"]["details"][0]["pid"]
    return next(p for p in psutil.Process(pid).parents() if "start" in p.cmdline())


def _members(leader: psutil.Process) -> list[psutil.Process]:
    return [leader, *leader.children(recursive=True)]


def _running(
    folder: Path, name: str, model: dict[str, Any]
) -> AbstractContextManager[RunningCluster]:
    return RunningCluster(folder, name, gateway=_GATEWAY, models=[model])


def _small_llama(folder: Path) -> str:
    return str(write_small_llama(folder / "small-llama.gguf"))
