"""The Serve deployment of the gateway: opens both doors on its node."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import BUSY
from deployments.deployment_names import GATEWAY
from deployments.gateway import replica_feed
from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.cluster_service import ClusterService
from deployments.gateway.doors import Doors
from deployments.gateway.expert_watch import ExpertWatch
from deployments.gateway.held_watch import HeldWatch
from deployments.gateway.prefix_index import PrefixIndex
from deployments.gateway.served_model import ServedModel, replica_wait_s
from deployments.gateway.telemetry.gateway_telemetry import GatewayTelemetry
from deployments.gateway.tokenizer import Tokenizer
from deployments.gateway.torch_free import hide_torch
from deployments.models.resolve import resolve_model
from deployments.prefix_store import PrefixStore
from deployments.ray_failures import ray_failures
from deployments.replica_logging import ServeLog
from deployments.settings import GatewaySection, ModelSection
from infra.telemetry.settings import TelemetrySection
from router.admission import Admission
from router.settings import AdmissionSection, RouterSection, TenantSection
from router.tenants import Tenants

log = logging.getLogger("ray.serve")

# Engines that still load take longer than that: then the doors open without them.
_LINKS_WITHIN_S = 5.0


class Gateway:
    """Translates between Serve's life cycle and the doors'.

    Made a Serve deployment in `deployments.app`.
    """

    # Serve awaits a constructor that is a coroutine.
    async def __init__(  # type: ignore[misc]
        self,
        sections: dict[str, Any],
        link: dict[str, str],
        engines: dict[str, DeploymentHandle[Any]],
        index: dict[str, Any] | None = None,
        directors: dict[str, DeploymentHandle[Any]] | None = None,
    ) -> None:
        ServeLog()
        self._watched = time.monotonic(), time.process_time()
        section = GatewaySection.model_validate(sections["gateway"])
        models = [ModelSection.model_validate(m) for m in sections["models"]]
        router = RouterSection.model_validate(sections["router"])
        waits_s = {model.name: replica_wait_s(model, router) for model in models}
        self._gate = _gate(sections, waits_s.__getitem__, section.num_replicas)
        self._store = PrefixStore.from_arguments(index)
        self._indexes = {} if self._store is None else _indexes(self._store, models, router)
        tokenizers = await asyncio.to_thread(_tokenizers, models, Path(link["state_dir"]))
        self._served = [
            ServedModel(m, tokenizer, link["token"], router, self._indexes.get(m.name))
            for m, tokenizer in zip(models, tokenizers, strict=True)
        ]
        for served in self._served:
            served.on_change(partial(_set_places, self._gate, served))
            served.on_report(partial(self._gate.look_again, served.section.name))
            index_of_model = self._indexes.get(served.section.name)
            _follow(served, index_of_model, engines[served.section.name])
        self._held = _held_watches(self._served, self._gate, engines)
        asks = {name: partial(_status, each) for name, each in (directors or {}).items()}
        self._experts = ExpertWatch(asks)
        self._experts.start()
        tenants = [tenant["name"] for tenant in sections["tenants"]]
        telemetry = TelemetrySection.model_validate(sections["telemetry"])
        app_name = serve.get_replica_context().app_name
        self._peers = serve.get_deployment_handle(GATEWAY, app_name)
        _count_gateways(self._gate, self._peers)
        self._telemetry = GatewayTelemetry(telemetry, section, link["token"], app_name)
        service = self._telemetry.watch(
            ClusterService(section, self._served, self._gate),
            self._num_held,
            {served.section.name: served.routing.log for served in self._served},
            self._indexes,
            (lambda: self._experts.latest) if directors else None,
            {
                served.section.name: served.drafts
                for served in self._served
                if served.section.speculation.is_on
            },
        )
        self._doors = Doors(section, service, tenants, self._telemetry.door_page)
        for served in self._served:
            served.on_change(self._doors.health.refresh)
        await self._telemetry.start()
        await self._wait_links()
        for held in self._held:
            held.start()
        await self._doors.open()

    async def _wait_links(self) -> None:
        """A gateway that takes another's place has links, and knows what engines have
        cached, before it has clients."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINKS_WITHIN_S):
                awaited = [s for s in self._served if not s.section.scales_to_zero]
                await asyncio.gather(*(served.wait_ready() for served in awaited))
                await asyncio.gather(*(each.wait_current() for each in self._indexes.values()))

    async def status(self) -> dict[str, Any]:
        """Process id and tasks; ready engine replicas, places taken, waiting requests and
        the prefix index by model."""
        ready = {s.section.name: s.num_ready_replicas for s in self._served}
        running = {name: self._gate.num_taken(name) for name in ready}
        return {
            "pid": os.getpid(),
            "num_ready_replicas": ready,
            "num_running": running,
            "num_held": self._num_held(),
            "prefix_index": {name: each.status() for name, each in self._indexes.items()},
            "num_tasks": len(asyncio.all_tasks()),
        }

    async def explain(self, request_id: str) -> list[dict[str, Any]]:
        """Why the request went where it did: `Explanation`s as builtins, none where it is
        not known here."""
        calls = [e for s in self._served for e in s.routing.log.explain(request_id)]
        return [msgspec.to_builtins(call) for call in calls]

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `BusySharePolicy` goes by; Serve itself sees no requests here."""
        before, now = self._watched, (time.monotonic(), time.process_time())
        self._watched = now
        return {BUSY: min((now[1] - before[1]) / max(now[0] - before[0], 1e-3), 1.0)}

    async def check_health(self) -> None:
        """Raises CoterieError where a door is gone; Serve then replaces us."""
        self._doors.check_health()

    def _num_held(self) -> dict[str, int]:
        names = [served.section.name for served in self._served]
        return {name: self._gate.num_held(name) for name in names}

    async def __del__(self) -> None:
        await self._doors.close()
        await asyncio.gather(*(held.close() for held in self._held))
        await self._experts.close()
        await asyncio.gather(*(served.close() for served in self._served))
        await asyncio.gather(*(each.close() for each in self._indexes.values()))
        if self._store is not None:
            await self._store.close()
        await self._telemetry.close()


def _gate(
    sections: Mapping[str, Any], replica_wait_s: Callable[[str], float], num_gateways: int
) -> AdmissionGate:
    section = AdmissionSection.model_validate(sections["admission"])
    tenants = [TenantSection.model_validate(t) for t in sections["tenants"]]
    admission = Admission(section, Tenants(tenants, num_gateways))
    return AdmissionGate(admission, section, replica_wait_s)


async def _wake(engines: DeploymentHandle[Any]) -> None:
    with ray_failures():
        await engines.wake.remote()


def _held_watches(
    models: Sequence[ServedModel],
    gate: AdmissionGate,
    engines: Mapping[str, DeploymentHandle[Any]],
) -> list[HeldWatch]:
    return [
        HeldWatch(
            served,
            partial(gate.num_held_outputs, served.section.name),
            partial(_wake, engines[served.section.name]),
        )
        for served in models
    ]


async def _status(director: DeploymentHandle[Any]) -> dict[str, Any]:
    found: dict[str, Any] = await director.status.remote()
    return found


def _set_places(gate: AdmissionGate, served: ServedModel) -> None:
    gate.set_places(served.section.name, served.num_places)


def _count_gateways(gate: AdmissionGate, peers: DeploymentHandle[Any]) -> None:
    """Keep up to date how many gateways share the tenants' limits, from Serve's pushes."""
    loop = asyncio.get_running_loop()

    def on_replicas(replicas: Mapping[str, replica_feed.Metadata]) -> None:
        # This one is not listed before it is ready.
        if replicas:
            loop.call_soon_threadsafe(gate.set_num_gateways, len(replicas))

    replica_feed.listen(peers.deployment_name, on_replicas)
    peers.options(method_name="status")


def _tokenizers(models: Sequence[ModelSection], state_dir: Path) -> list[Tokenizer]:
    paths = [resolve_model(model.model, state_dir).path for model in models]
    # Torch may have been needed to convert one of them, and is not from here on.
    hide_torch()
    return [
        Tokenizer.load(path, model.chat_template_file)
        for path, model in zip(paths, models, strict=True)
    ]


def _indexes(
    store: PrefixStore, models: Sequence[ModelSection], router: RouterSection
) -> dict[str, PrefixIndex]:
    return {
        m.name: PrefixIndex(store, m.model, router.expected_prefix_s)
        for m in models
        if m.task == "generate"
    }


def _follow(
    served: ServedModel, index: PrefixIndex | None, handle: DeploymentHandle[Any]
) -> None:
    """Keep the model's replicas up to date, from Serve's pushes."""
    loop = asyncio.get_running_loop()

    def on_replicas(replicas: Mapping[str, replica_feed.Metadata]) -> None:
        loop.call_soon_threadsafe(served.set_replicas, replicas)
        if index is not None:
            loop.call_soon_threadsafe(index.learn, replicas)

    replica_feed.listen(handle.deployment_name, on_replicas)
    # A handle has no router before that. A call would have to wait for a replica, and by that
    # bring one.
    handle.options(method_name="status")
