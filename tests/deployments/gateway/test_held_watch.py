"""Engine replicas hear how many wait, and are called for where there are none."""

import asyncio
from typing import cast

import pytest

from deployments.engine.link_server import LinkServer
from deployments.gateway.held_watch import HeldWatch
from deployments.gateway.served_model import ServedModel
from deployments.settings import ModelSection
from infra.errors import NoReplicaError
from tests.builders.fake_engine import FakeEngine
from tests.builders.until import until
from tests.deployments.gateway.test_served_model import served_by


class Caller:
    """Answers a call when told to."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.num_cancelled = 0
        self.error: Exception | None = None
        self.answer = asyncio.Event()

    async def __call__(self) -> None:
        self.num_calls += 1
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error is not None:
            raise self.error


class Sleeping:
    """A model without replicas."""

    has_replicas = False
    section = ModelSection(name="m", model="some/model")

    def tell_held(self, num_sequences: int) -> None:
        """There is nobody to be told."""


def watching(held: list[int], caller: Caller) -> HeldWatch:
    served = cast(ServedModel, Sleeping())
    return HeldWatch(served, lambda: held[0], caller, look_s=0.005)


async def test_a_first_replica_is_called_for_once_while_requests_wait() -> None:
    caller, held = Caller(), [0]
    watch = watching(held, caller)
    watch.start()
    await asyncio.sleep(0.03)
    assert caller.num_calls == 0
    held[0] = 2
    await until(lambda: caller.num_calls == 1)
    await asyncio.sleep(0.03)
    assert caller.num_calls == 1
    await watch.close()
    assert caller.num_cancelled == 1


async def test_nobody_is_called_for_any_more_once_nobody_waits() -> None:
    caller, held = Caller(), [1]
    watch = watching(held, caller)
    watch.start()
    await until(lambda: caller.num_calls == 1)
    held[0] = 0
    await until(lambda: caller.num_cancelled == 1)
    held[0] = 1
    await until(lambda: caller.num_calls == 2)
    await watch.close()


@pytest.mark.parametrize("error", [None, NoReplicaError("gone")])
async def test_a_call_that_ends_in_whatever_way_is_made_again_while_requests_wait(
    error: Exception | None,
) -> None:
    caller = Caller()
    caller.error = error
    caller.answer.set()
    watch = watching([1], caller)
    watch.start()
    await until(lambda: caller.num_calls >= 3)
    await watch.close()


async def test_all_replicas_hear_how_many_wait_and_of_every_change() -> None:
    held = [3]
    async with served_by(FakeEngine(), FakeEngine()) as (model, servers):
        caller = Caller()
        watch = HeldWatch(model, lambda: held[0], caller, look_s=0.005)
        watch.start()
        await until(lambda: [server.num_held for server in servers] == [3, 3])
        held[0] = 0
        await until(lambda: [server.num_held for server in servers] == [0, 0])
        await watch.close()
        assert caller.num_calls == 0


async def test_what_gateways_hold_adds_up_and_goes_with_them() -> None:
    engine = FakeEngine()
    async with served_by(engine) as (first, servers):
        server: LinkServer = servers[0]
        first.tell_held(2)
        await until(lambda: server.num_held == 2)
        await first.close()
        await until(lambda: server.num_held == 0)
