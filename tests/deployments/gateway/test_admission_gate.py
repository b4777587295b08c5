"""Waiting to be admitted; what is decided is `tests.router.test_admission`'s."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from deployments.gateway.admission_gate import AdmissionGate
from infra.errors import CapacityError, DeadlineError, NoReplicaError
from router.admission import Admission
from router.model_queue import Demand
from router.settings import AdmissionSection, TenantSection
from router.tenants import Tenants
from router.types import ANONYMOUS, TenantId

DEMAND = Demand("m", ANONYMOUS, "normal", num_prompt_tokens=10, num_outputs=1)


def gate(places: int = 1, *tenants: TenantSection, **changes: Any) -> AdmissionGate:
    replica_wait_s = changes.pop("replica_wait_s", 5.0)
    section = AdmissionSection(**changes)
    admission = Admission(section, Tenants(tenants))
    made = AdmissionGate(admission, section, lambda _: replica_wait_s)
    made.set_places("m", places)
    return made


class Runner:
    """Requests as tasks that run until they are told to end."""

    def __init__(self, of: AdmissionGate) -> None:
        self.gate = of
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, timeout_s: float = 5.0) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, timeout_s))
        await self.settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks.pop(name)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.gate.check_invariants()

    async def _run(self, name: str, timeout_s: float) -> None:
        async with self.gate.admitted(DEMAND, timeout_s):
            self.begun.append(name)
            await self._ends[name].wait()


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Leaves nothing held or running."""
    made = Runner(gate(*getattr(request, "param", ())))
    yield made
    assert made.gate.num_held("m") == made.gate.num_taken("m") == 0
    made.gate.check_invariants()


async def test_those_who_wait_begin_as_others_end(runner: Runner) -> None:
    for name in "abc":
        await runner.start(name)
    assert (runner.begun, runner.gate.num_held("m")) == (["a"], 2)
    for name in "abc":
        await runner.end(name)
    assert runner.begun == ["a", "b", "c"]


async def test_who_leaves_while_waiting_gives_its_turn_to_the_next(runner: Runner) -> None:
    for name in "abc":
        await runner.start(name)
    left = runner.tasks.pop("b")
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await runner.end("a")
    assert runner.begun == ["a", "c"]
    await runner.end("c")


async def test_who_leaves_in_the_moment_of_being_admitted_gives_the_place_on(
    runner: Runner,
) -> None:
    for name in "abc":
        await runner.start(name)
    left = runner.tasks.pop("b")
    # Both happen before b runs again.
    runner._ends["a"].set()
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await runner.end("a")
    assert "c" in runner.begun
    await runner.end("c")


async def test_a_failure_inside_gives_the_place_back(runner: Runner) -> None:
    with pytest.raises(KeyError):
        async with runner.gate.admitted(DEMAND, 5):
            raise KeyError
    await runner.start("a")
    assert runner.begun == ["a"]
    await runner.end("a")


async def test_the_first_replica_lets_those_begin_who_wait_for_it() -> None:
    runner = Runner(gate(0, replica_wait_s=30))
    await runner.start("a")
    assert runner.begun == []
    runner.gate.set_places("m", 1)
    await runner.settle()
    assert runner.begun == ["a"]
    await runner.end("a")


async def test_without_any_replica_the_wait_is_short() -> None:
    runner = Runner(gate(0, replica_wait_s=0.05))
    await runner.start("a")
    with pytest.raises(NoReplicaError):
        await runner.tasks["a"]


async def test_when_the_last_replica_goes_the_wait_becomes_short() -> None:
    runner = Runner(gate(1, replica_wait_s=0.05, max_queue_s=30))
    await runner.start("a")
    await runner.start("b")
    runner.gate.set_places("m", 0)
    with pytest.raises(NoReplicaError):
        await asyncio.wait_for(runner.tasks["b"], 5)
    await runner.end("a")


async def test_waiting_for_a_replica_takes_nothing_of_the_time_in_its_queue() -> None:
    runner = Runner(gate(0, replica_wait_s=30, max_queue_s=0.2))
    await runner.start("a")
    await runner.start("b")
    await asyncio.sleep(0.3)
    runner.gate.set_places("m", 1)
    await runner.settle()
    assert runner.begun == ["a"]
    await asyncio.sleep(0.1)
    await runner.end("a")
    assert runner.begun == ["a", "b"]
    await runner.end("b")


async def test_when_the_last_replica_goes_the_wait_for_another_begins() -> None:
    runner = Runner(gate(1, replica_wait_s=0.3, max_queue_s=30))
    await runner.start("a")
    await runner.start("b")
    await asyncio.sleep(0.4)
    runner.gate.set_places("m", 0)
    await asyncio.sleep(0.1)
    runner.gate.set_places("m", 1)
    await runner.end("a")
    assert runner.begun == ["a", "b"]
    await runner.end("b")


async def test_a_deadline_counts_from_the_beginning_whatever_was_waited_for() -> None:
    runner = Runner(gate(0, replica_wait_s=30, max_queue_s=30))
    await runner.start("a")
    await runner.start("b", timeout_s=0.3)
    await asyncio.sleep(0.1)
    runner.gate.set_places("m", 1)
    with pytest.raises(DeadlineError):
        await runner.tasks["b"]
    await runner.end("a")


async def test_what_waits_begins_when_its_tenant_owes_nothing_more() -> None:
    section = TenantSection(name="a", tokens_per_minute=6000, max_concurrent_requests=1)
    g = gate(4, section)
    demand = Demand("m", TenantId("a"), "normal", 10, 1)
    async with g.admitted(demand, 5) as admitted:
        waiting = asyncio.create_task(_begin(g, demand))
        await asyncio.sleep(0)
        # 20 tokens of debt are worked off in 0.2 s.
        admitted.count_outputs(6000)
    assert await asyncio.wait_for(waiting, 5) >= 0.1


async def test_a_short_debt_does_not_wait_for_a_long_one() -> None:
    limits: Any = {"tokens_per_minute": 6000, "max_concurrent_requests": 1}
    g = gate(4, *(TenantSection(name=n, **limits) for n in "ab"), max_queue_s=30)
    waiting = {}
    for name, num_outputs in (("a", 60_000), ("b", 6010)):
        demand = Demand("m", TenantId(name), "normal", 10, 1)
        async with g.admitted(demand, 5) as admitted:
            waiting[name] = asyncio.create_task(_begin(g, demand))
            await asyncio.sleep(0)
            admitted.count_outputs(num_outputs)
    assert await asyncio.wait_for(waiting["b"], 5) < 4
    waiting["a"].cancel()
    await asyncio.gather(waiting["a"], return_exceptions=True)


async def _begin(g: AdmissionGate, demand: Demand) -> float:
    """Seconds that it waited."""
    since_s = asyncio.get_running_loop().time()
    async with g.admitted(demand, 5):
        return asyncio.get_running_loop().time() - since_s


async def test_who_waits_too_long_is_turned_away_with_a_hint() -> None:
    runner = Runner(gate(1, max_queue_s=0.05))
    await runner.start("a")
    await runner.start("b")
    with pytest.raises(CapacityError, match="too many requests wait") as refused:
        await runner.tasks["b"]
    assert refused.value.retry_after_s == 0.05
    await runner.end("a")


async def test_a_deadline_that_passes_while_waiting_is_told_as_such() -> None:
    runner = Runner(gate(1))
    await runner.start("a")
    await runner.start("b", timeout_s=0.05)
    with pytest.raises(DeadlineError, match="not begun within"):
        await runner.tasks["b"]
    await runner.end("a")


async def test_a_used_up_rate_is_found_before_any_work() -> None:
    g = gate(4, TenantSection(name="a", tokens_per_minute=20))
    tenant = TenantId("a")
    g.check("m", tenant)
    async with g.admitted(Demand("m", tenant, "normal", 10, 1), 5) as admitted:
        admitted.count_outputs(15)
    with pytest.raises(CapacityError, match="tokens per minute"):
        g.check("m", tenant)


def test_tenants_do_not_share_prefixes_unless_they_are_told_to() -> None:
    g = gate(
        1,
        TenantSection(name="a"),
        TenantSection(name="b", cache_group="x"),
        TenantSection(name="c", cache_group="x"),
    )
    salts = [g.cache_salt(TenantId(name)) for name in ("a", "b", "c", "unlisted", ANONYMOUS)]
    assert salts == ["tenant a", "group x", "group x", "tenant unlisted", None]


async def test_who_waits_for_room_is_woken_by_the_news_of_it() -> None:
    made, room = gate(4), {"free": False}
    tight = replace(DEMAND, has_room=lambda: room["free"])
    begun = asyncio.Event()

    async def run() -> None:
        async with made.admitted(tight, 5.0):
            begun.set()

    async with made.admitted(DEMAND, 5.0):
        waiting = asyncio.create_task(run())
        await asyncio.sleep(0)
        made.look_again("m")
        await asyncio.sleep(0.01)
        assert (begun.is_set(), made.num_held("m")) == (False, 1)
        room["free"] = True
        made.look_again("m")
        await asyncio.wait_for(begun.wait(), 5)
        await waiting
    made.check_invariants()


async def test_who_finds_no_room_for_too_long_is_turned_away() -> None:
    made = gate(4, max_queue_s=0.02)
    async with made.admitted(DEMAND, 5.0):
        with pytest.raises(CapacityError):
            async with made.admitted(replace(DEMAND, has_room=lambda: False), 5.0):
                pass
    made.check_invariants()
