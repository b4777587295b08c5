"""The Serve deployment that holds one engine: starts it, watches it, ends it."""

import asyncio
import logging
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.drafts.engine_drafts import EngineDrafts
from deployments.drafts.speculation_config import speculation_arguments
from deployments.engine.autoscaling import HELD, START
from deployments.engine.core_claim import claim_ranks_cores
from deployments.engine.environment import engine_environment, join_ray_cluster
from deployments.engine.index_feed import IndexFeed
from deployments.engine.link_server import CallRunner, LinkServer
from deployments.engine.load_book import EngineStats
from deployments.engine.plan import (
    Machine,
    plan_engine_args,
    plan_kv_events,
    plan_thread_environment,
    with_arguments,
)
from deployments.engine.scratch import Scratch
from deployments.engine.step_tracing import step_environment
from deployments.experts.engine_tier import EngineTier, plan_tier_args
from deployments.prefix_store import PrefixStore
from deployments.replica_logging import ServeLog
from deployments.settings import ModelSection
from infra.errors import EngineError
from infra.telemetry.settings import TelemetrySection
from infra.telemetry.tracing import Tracing, is_traced
from router.scaling.engine_demand import EngineSignals

log = logging.getLogger("ray.serve")


class EngineStatus(msgspec.Struct, frozen=True):
    """What an engine replica says of itself when asked.

    `prefix_index` counts what became of the engine's KV events (`EventCounters`), and what
    was told to the index (`IndexFeed.counts`); empty where no index is kept.
    """

    model: str
    replica_id: str
    pid: int
    num_open_calls: int
    num_kv_blocks: int
    num_used_kv_blocks: int
    num_tokens: dict[str, int]
    """`TokenCounts` of the engine."""
    tpot_s: float
    num_tasks: int
    startup_s: dict[str, float]
    prefix_index: dict[str, int]
    drafts: dict[str, int] | None
    """`DraftCounts`; None where there is no speculation."""


class EngineReplica:
    """One replica of one model. Requests reach it by its link, not by Serve.

    Made a Serve deployment in `deployments.app`.
    """

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self,
        section: dict[str, Any],
        machine: Machine,
        link: dict[str, str],
        tracing: dict[str, Any],
        index: dict[str, Any] | None = None,
        expert_hosts: DeploymentHandle[Any] | None = None,
        draft_replicas: DeploymentHandle[Any] | None = None,
    ) -> None:
        serve_log = ServeLog()
        self._section = ModelSection.model_validate(section)
        self._machine = machine
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._startup_s: dict[str, float] = {}
        self._store = PrefixStore.from_arguments(index)
        self._scratch = Scratch.claim()
        # The gateway decides what is sampled.
        self._telemetry = TelemetrySection(**tracing, trace_sampling_ratio=1.0)
        os.environ.update(step_environment(tracing))
        if expert_hosts is not None:
            tier = EngineTier(self._scratch.path, link["token"], expert_hosts)
            os.environ.update(tier.environment)
        if draft_replicas is not None:
            drafts = EngineDrafts(self._scratch.path, link["token"], draft_replicas)
            os.environ.update(drafts.environment)
        started = time.monotonic()
        join_ray_cluster(ray.get_runtime_context().gcs_address)
        try:
            self._engine = await asyncio.to_thread(self._load, link["state_dir"])
        finally:
            serve_log.restore()
        self._kv_events = await self._engine.follow_kv_events(self._section.model)
        self._feed = self._start_feed()
        host = ray.util.get_node_ip_address()
        self._tracing = Tracing.start(self._telemetry, "engine")
        self._server = LinkServer(self._traced_engine(host), link["token"], self._stats)
        self._address = f"{host}:{await self._server.start(host)}"
        self._startup_s["total"] = time.monotonic() - started
        log.info("engine of %s ready: %s", self._section.name, self._startup_s)

    def _start_feed(self) -> IndexFeed | None:
        if self._kv_events is None or self._store is None:
            return None
        index = self._store.of_model(self._section.model, self._engine.info.groups)
        feed = IndexFeed(index, self._replica_id, self._kv_events)
        feed.start()
        return feed

    def _index_counts(self) -> dict[str, int]:
        if self._feed is None or self._kv_events is None:
            return {}
        return asdict(self._kv_events.counters) | self._feed.counts()

    def _traced_engine(self, host: str) -> CallRunner:
        if self._tracing is None:
            engine: CallRunner = self._engine
            return engine
        from deployments.engine.traced_engine import TracedEngine  # noqa: PLC0415

        return TracedEngine(self._engine, self._tracing, self._section.name, host)

    def _stats(self) -> EngineStats:
        info = self._engine.info
        found: EngineStats = self._engine.load.stats(info.num_kv_blocks * info.block_size)
        return found

    def _load(self, state_dir: str) -> Any:
        section, device = self._section, self._machine["device"]
        environment = engine_environment(Path(state_dir), section.startup_timeout_s)
        os.environ.update({**environment, **self._scratch.environment})
        tempfile.tempdir = None  # so that the new TMPDIR counts in this process too
        path = self._timed("model_files", lambda: _model_path(section.model, state_dir))
        args = plan_engine_args(
            section,
            device,
            path,
            self._machine["executor"],
            is_traced=is_traced(self._telemetry),
        )
        args = with_arguments(args, plan_tier_args(section, path, device))
        args = with_arguments(args, speculation_arguments(section.speculation))
        if self._store is not None:
            args |= plan_kv_events(section, self._scratch.path)
        engine_class = self._timed("import", _import_engine)
        if device == "cpu":
            # After the import: meant for the engine's processes, not for this one.
            num_cpu_ranks = self._machine["num_cpu_ranks"]
            cores = claim_ranks_cores(self._scratch, section, num_cpu_ranks)
            os.environ.update(plan_thread_environment(cores))
        adapters = dict(section.adapters)
        engine = self._timed("load_and_warm_up", lambda: engine_class.start(args, adapters))
        self._scratch.note_shared_memory(psutil.Process().children(recursive=True))
        return engine

    def _timed(self, stage: str, step: Any) -> Any:
        started = time.monotonic()
        result = step()
        self._startup_s[stage] = round(time.monotonic() - started, 2)
        return result

    async def record_replica_metadata(self) -> dict[str, Any]:
        """What gateways need to know; Serve hands it to their routers."""
        return {"address": self._address, **msgspec.to_builtins(self._engine.info)}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Load for autoscaling policies; Serve itself sees no requests here."""
        book, is_idle = self._server.load, not self._server.num_open_calls
        signals = EngineSignals(
            num_sequences=book.load.num_sequences,
            asked_tokens_per_s=book.asked_tokens_per_s,
            waiting_tokens=book.waiting_tokens,
            # Calls that were aborted leave the cache without a step that would tell.
            kv_usage=0.0 if is_idle else self._engine.load.kv_usage,
            prefill_tokens_per_s=book.prefill_tokens_per_s,
            tpot_s=self._engine.load.tpot_s,
        )
        held = float(self._server.num_held)
        return signals._asdict() | {HELD: held, START: self._startup_s["total"]}

    async def wake(self) -> None:
        """Does nothing: who waits for this to be answered wants a replica to be there."""

    async def check_health(self) -> None:
        """Raises EngineError for a dead or stuck core; Serve then replaces us."""
        try:
            await self._engine.check_health(self._section.health_timeout_s)
        except EngineError:
            # Open calls fail now instead of hanging until Serve ends this
            # process; and a stuck core would not notice that its parent is gone.
            await asyncio.to_thread(self._engine.kill)
            raise

    async def status(self) -> dict[str, Any]:
        """`EngineStatus`, as builtins."""
        num_blocks = self._engine.info.num_kv_blocks
        status = EngineStatus(
            model=self._section.name,
            replica_id=self._replica_id,
            pid=os.getpid(),
            num_open_calls=self._server.num_open_calls,
            num_kv_blocks=num_blocks,
            num_used_kv_blocks=round(self._engine.load.kv_usage * num_blocks),
            num_tokens=msgspec.structs.asdict(self._engine.load.tokens),
            tpot_s=round(self._engine.load.tpot_s, 4),
            num_tasks=len(asyncio.all_tasks()),
            startup_s=self._startup_s,
            prefix_index=self._index_counts(),
            drafts=(
                msgspec.structs.asdict(self._engine.load.drafts)
                if self._section.speculation.is_on
                else None
            ),
        )
        found: dict[str, Any] = msgspec.to_builtins(status)
        return found

    async def __del__(self) -> None:
        self._scratch.free_cores()
        await self._server.drain(self._section.drain_timeout_s)
        await self._server.stop()
        if self._feed is not None:
            await self._feed.close()
        if self._store is not None:
            await self._store.close()
        if self._kv_events is not None:
            await self._kv_events.stop()
        await asyncio.to_thread(self._engine.shutdown)
        self._scratch.remove()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


def _import_engine() -> Any:
    # vLLM takes seconds to import and must find the environment set.
    from deployments.engine.engine import Engine  # noqa: PLC0415

    return Engine


def _model_path(reference: str, state_dir: str) -> str:
    from deployments.models.resolve import resolve_model  # noqa: PLC0415

    return resolve_model(reference, Path(state_dir)).path
