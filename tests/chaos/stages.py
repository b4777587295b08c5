"""The clusters that things befall, and what does: each has at least two of what fails alone."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployments.local_cluster import free_ports
from deployments.settings import ClusterSection
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.metadata_server import kept
from tests.builders.ray_nodes import RayNodes
from tests.builders.small_llama import write_small_llama
from tests.builders.small_moe import write_small_moe
from tests.chaos.events import (
    PARTITIONS,
    Event,
    all_of,
    controller,
    core_of,
    each_way,
    metadata_server,
    rank_of,
    replica_of,
)
from tests.chaos.partition import is_alone

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


@dataclass(frozen=True)
class Scene:
    """Where it happens."""

    cluster: RunningCluster
    repair: Callable[[], None] = lambda: None
    """Has machines that are gone replaced."""


@dataclass(frozen=True)
class Stage:
    """A cluster, the models that are asked, and what befalls it."""

    name: str
    models: tuple[str, ...]
    events: list[Event]
    scene: Callable[[Path], AbstractContextManager[Scene]]
    """Of a folder, where its files may be."""


def stages() -> list[Stage]:
    """All of them."""
    return [_dense(), _parallel(), _experts(), _drafts(), _nodes()]


def _dense() -> Stage:
    """Two gateways, two engines, and what they lean on."""
    # What an engine core says to others, it says by Unix sockets to its replica.
    of_core = each_way("engine core", core_of("engine-small"))
    events = [
        *each_way("gateway", replica_of("gateway")),
        # As where there is one, or where Serve's controller has lost sight of them.
        Event("both gateways", "kill", all_of("gateway")),
        *each_way("engine replica", replica_of("engine-small")),
        *(event for event in of_core if event.how not in PARTITIONS),
        *each_way("metadata server", metadata_server),
        *each_way("serve controller", controller),
    ]

    @contextmanager
    def scene(folder: Path) -> Iterator[Scene]:
        engine = _ENGINE | {
            "name": "small",
            "model": _small_llama(folder),
            "num_replicas": 2,
            # One core for both, and the rest for gateways and for replicas that start.
            "cpu_cores_per_rank": [[max(os.sched_getaffinity(0))]],
        }
        (port,) = free_ports(1)
        # Not the cluster's own, which listens on a Unix socket, where nothing can be cut.
        with (
            kept(folder, port) as url,
            _on_one_node(folder, "chaos", engine, cache={"url": url}) as scene,
        ):
            yield scene

    return Stage("dense", ("small",), events, scene)


def _parallel() -> Stage:
    """Two engines of two tensor-parallel ranks."""

    def scene(folder: Path) -> AbstractContextManager[Scene]:
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
        return _on_one_node(folder, "chaosranks", engine)

    events = each_way("tensor-parallel rank", rank_of("engine-parallel"))
    return Stage("parallel", ("parallel",), events, scene)


def _experts() -> Stage:
    """Two expert hosts with a copy of each expert, and their director; hosts have a node of
    their own."""

    def scene(folder: Path) -> AbstractContextManager[Scene]:
        experts = {
            "placement": "service",
            "num_hosts": 2,
            "slots_per_host": 4,
            "rebalance": {"min_copies": 2, "min_interval_s": 5.0},
        }
        moe = str(write_small_moe(folder / "small-moe"))
        model = {"name": "tiered", "model": moe, "max_model_len": 512, "experts": experts}
        groups = [
            {"gateway": 2.0, "engine-tiered": 1.0, "director-tiered": 1.0},
            {"experts-tiered": 2.0},
        ]
        return _on_nodes(folder, "chaosexperts", _ENGINE | model, groups)

    events = [
        *each_way("expert host", replica_of("experts-tiered")),
        *each_way("expert director", replica_of("director-tiered")),
    ]
    return Stage("experts", ("tiered",), events, scene)


def _drafts() -> Stage:
    """A draft replica on a node of its own, which foresees all that its engine says."""

    def scene(folder: Path) -> AbstractContextManager[Scene]:
        llama = _small_llama(folder)
        speculation = {
            "drafters": ["draft_model"],
            "draft": {"model": llama, "ahead_tokens": 4, "precision": "full"},
            "max_tokens": 4,
            "length": "fixed",
        }
        model = {"name": "drafted", "model": llama, "speculation": speculation}
        groups = [{"gateway": 2.0, "engine-drafted": 1.0}, {"drafts-drafted": 1.0}]
        return _on_nodes(folder, "chaosdrafts", _ENGINE | model, groups)

    events = each_way("draft replica", replica_of("drafts-drafted"))
    return Stage("drafts", ("drafted",), events, scene)


def _nodes() -> Stage:
    """Nodes of one engine each, and spare ones, whose head and gateways stay."""

    def raylet(cluster: RunningCluster) -> list[psutil.Process]:
        return [p for p in _members(_node_of_first_engine(cluster)) if p.name() == "raylet"]

    def node(cluster: RunningCluster) -> list[psutil.Process]:
        return _members(_node_of_first_engine(cluster))

    def scene(folder: Path) -> AbstractContextManager[Scene]:
        engine = _ENGINE | {"name": "small", "model": _small_llama(folder), "num_replicas": 2}
        # One that fails may be there for a while until it is seen to have ended.
        groups = [{"gateway": 2.0}, *[{"engine-small": 1.0}] * 4]
        return _on_nodes(folder, "chaosnodes", engine, groups)

    events = [
        # It has started the node's replicas.
        *each_way("raylet of a node", raylet, spares_started=True),
        *each_way("node", node),
    ]
    return Stage("nodes", ("small",), events, scene)


def _node_of_first_engine(cluster: RunningCluster) -> psutil.Process:
    """The `ray start` of the node that it runs on."""
    pid = cluster.status()["engine-small"]["details"][0]["pid"]
    return next(p for p in psutil.Process(pid).parents() if "start" in p.cmdline())


def _members(leader: psutil.Process) -> list[psutil.Process]:
    return [leader, *leader.children(recursive=True)]


@contextmanager
def _on_one_node(
    folder: Path, name: str, model: dict[str, Any], **sections: Any
) -> Iterator[Scene]:
    with RunningCluster(folder, name, gateway=_GATEWAY, models=[model], **sections) as running:
        yield Scene(running)


@contextmanager
def _on_nodes(
    folder: Path, name: str, model: dict[str, Any], groups: Sequence[dict[str, float]]
) -> Iterator[Scene]:
    """Beside the head, which has none of the replicas: with links between nodes by TCP."""
    section = ClusterSection(app_name=name, state_dir=str(STATE_DIR), num_cpus=1)  # type: ignore[arg-type]
    where = {"app_name": name, "state_dir": str(STATE_DIR), "node_groups": True}
    with RayNodes(section, drain_s=30, apart=is_alone()) as nodes:
        for resources in groups:
            nodes.add(**resources)
        sections = {"cluster": where, "gateway": _GATEWAY, "models": [model]}
        with RunningCluster(folder, name, **sections) as running:
            yield Scene(running, nodes.replace_ended)


def _small_llama(folder: Path) -> str:
    return str(write_small_llama(folder / "small-llama.gguf"))
