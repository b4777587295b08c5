"""Hosts that run in a thread of the test."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.experts.checkpoint import DTYPES
from deployments.experts.host.host import ExpertHost
from deployments.experts.host.settings import HostSettings
from deployments.experts.kernel import ExpertKernel, PairRequest, Results
from deployments.experts.kernel_choice import HostExperts, build_experts
from deployments.experts.kernel_torch import PlainWeights, TorchKernel
from deployments.experts.weights import ExpertReader, ExpertSlots
from experts.checkpoint.types import Dtype
from tests.deployments.experts.on_vllm.host.engine_client import (
    LIMIT_S,
    SECRET,
    SETTINGS,
    Client,
)
from tests.deployments.experts.on_vllm.host.random_model import RandomModel

Experts = Callable[[RandomModel, HostSettings], HostExperts]


def best_experts(model: RandomModel, settings: HostSettings) -> HostExperts:
    """What a host takes on this machine."""
    shape = model.reader.config.shape
    return build_experts(shape, settings.num_slots, settings.dtype, settings.precision)


def plain_experts(model: RandomModel, settings: HostSettings) -> HostExperts:
    """What a host takes where vLLM has no kernel."""
    shape = model.reader.config.shape
    plain = PlainWeights(shape, settings.num_slots, DTYPES[settings.dtype])
    slots = ExpertSlots(shape, settings.num_slots, plain)
    return HostExperts(slots, TorchKernel(slots, plain), plain.bytes_per_slot)


@dataclass
class HeldKernel:
    """A kernel that waits in its calls until it may go, and tells of them."""

    kernel: ExpertKernel
    may_go: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[int, int]] = field(default_factory=list)
    """Layer, and number of requests."""
    error: Exception | None = None
    is_exact = False

    def compute(self, layer: int, requests: Sequence[PairRequest]) -> list[Results]:
        self.calls.append((layer, len(requests)))
        self.has_begun.set()
        assert self.may_go.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        return self.kernel.compute(layer, requests)


@dataclass
class RunningHost:
    """A host, and what a test knows of it."""

    host: ExpertHost
    model: RandomModel
    experts: HostExperts

    @property
    def digest(self) -> str:
        return self.model.reader.digest

    def client(self, name: str = "engine", where: int = 0) -> Client:
        """By the host's address of this index: unix, then tcp."""
        return Client(self.host.addresses[where], self.digest, name)


def settings_in(folder: Path, num_slots: int = 3, dtype: Dtype = "float32") -> HostSettings:
    return HostSettings(
        num_slots=num_slots,
        dtype=dtype,
        unix_folder=folder,
        tcp_host="127.0.0.1",
        secret=SECRET,
        link=SETTINGS,
    )


@contextlib.contextmanager
def running(
    model: RandomModel,
    settings: HostSettings,
    build: Experts | HostExperts = best_experts,
    reader: ExpertReader | None = None,
) -> Iterator[RunningHost]:
    """Ends with the host closed, sound, and not failed."""
    experts = build if isinstance(build, HostExperts) else build(model, settings)
    host = ExpertHost.of(model.reader.digest, experts, reader or model.reader, settings)
    thread = threading.Thread(target=host.run)
    thread.start()
    found = RunningHost(host, model, experts)
    try:
        yield found
    finally:
        # A fixture's value outlives the look at what is left.
        del found.host
        host.close()
        thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert host.failure is None
    host.check_invariants()
