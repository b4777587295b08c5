"""What a gateway tells of expert hosts, and how it comes to know."""

import asyncio
from typing import Any

from deployments.gateway.expert_watch import ExpertWatch
from deployments.gateway.telemetry.metrics import GatewayMetrics
from experts.director.director import Director
from experts.director.status import status_of
from experts.director.types import DirectorSettings
from experts.settings import RebalanceSection
from tests.experts.director.fleet import Fleet, new_host


def tier(*sizes: int) -> dict[str, Any]:
    """Two layers of three experts."""
    director = Director(2, 3, DirectorSettings(RebalanceSection(), 2), 0.0)
    fleet = Fleet(director)
    fleet.join(*(new_host("abc"[i], size, 2, 3) for i, size in enumerate(sizes)))
    fleet.run(1)
    return status_of(director.view(fleet.now_s), fleet.now_s)


def test_what_directors_say_is_told_at_the_scrape() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_experts(lambda: {"m": tier(2, 2)})
    value = metrics.registry.get_sample_value
    names = ("hosts", "slots", "copies", "missing", "busy_ratio", "wait_seconds")
    found = {name: value(f"coterie_expert_{name}", {"model": "m"}) for name in names}
    assert found == {
        "hosts": 2,
        "slots": 8,
        "copies": 8,
        "missing": 0,
        "busy_ratio": 0.5,
        "wait_seconds": 0,
    }
    state = "coterie_expert_director_state"
    assert value(state, {"model": "m", "state": "settled"}) == 1
    assert value(state, {"model": "m", "state": "short"}) == 0


def test_experts_without_a_copy_are_counted() -> None:
    metrics = GatewayMetrics(10)
    metrics.add_experts(lambda: {"m": tier(1, 1)})
    value = metrics.registry.get_sample_value
    assert value("coterie_expert_missing", {"model": "m"}) == 6
    assert value("coterie_expert_director_state", {"model": "m", "state": "short"}) == 1


async def test_a_director_that_does_not_answer_is_left_out_until_it_does() -> None:
    answers: list[dict[str, Any] | Exception] = [
        {"experts": {"state": "moving"}},
        RuntimeError("its replica is gone"),
        {"experts": {"state": "settled"}},
    ]
    asked = asyncio.Semaphore(0)
    may_ask = asyncio.Semaphore(0)

    async def ask() -> dict[str, Any]:
        await may_ask.acquire()
        found = answers.pop(0)
        asked.release()
        if isinstance(found, Exception):
            raise found
        return found

    watch = ExpertWatch({"m": ask}, period_s=0.5)
    watch.start()
    seen = []
    for _ in range(3):
        may_ask.release()
        await asked.acquire()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append(dict(watch.latest))
    await watch.close()
    assert seen == [{"m": {"state": "moving"}}, {}, {"m": {"state": "settled"}}]
