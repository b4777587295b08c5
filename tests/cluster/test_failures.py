"""Two gateways and two engine replicas: what is lost when one of them goes, stops or moves."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from coterie import AsyncClient, UnavailableError
from tests.bench.event_client import EventClient
from tests.builders.cluster import RunningCluster
from tests.builders.engine_processes import engine_core_of, spawned_by
from tests.builders.streams import CountedStreams, Heard, by_grpc, by_http
from tests.builders.until import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "small"
COMMON = {
    "name": MODEL,
    "num_replicas": 2,
    # In bfloat16 a near tie falls differently in another batch, with or without a kill.
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "kv_cache_memory_bytes": 128 * 1024**2,
    # One core for both, and the rest for replicas that start while streams run on.
    "cpu_cores_per_rank": [[max(os.sched_getaffinity(0))]],
    "health_timeout_s": 10,
    "drain_timeout_s": 60,
}
GATEWAYS = {"num_replicas": 2, "drain_timeout_s": 60}


@pytest.fixture(scope="module")
def section(small_llama: str) -> dict[str, Any]:
    return COMMON | {"model": small_llama}


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, section: dict[str, Any]
) -> Iterator[RunningCluster]:
    folder = tmp_path_factory.mktemp("failures")
    with RunningCluster(folder, "failures", gateway=GATEWAYS, models=[section]) as running:
        yield running


@asynccontextmanager
async def clients(cluster: RunningCluster, count: int) -> AsyncIterator[list[AsyncClient]]:
    """Clients with a connection each, which the kernel spreads over the gateways."""
    found = [AsyncClient(cluster.address) for _ in range(count)]
    try:
        yield found
    finally:
        await asyncio.gather(*(client.close() for client in found))


async def serves_all(several: Sequence[AsyncClient]) -> bool:
    """A short stream of each client ends as it should."""
    return await CountedStreams(several, 2).ends() == [2] * len(several)


@asynccontextmanager
async def asking_all_along(
    cluster: RunningCluster, count: int, num_tokens: int
) -> AsyncIterator[None]:
    """Each of the clients has one stream after the other, from which nothing is missing."""
    is_done = asyncio.Event()

    async def keep_asking(client: AsyncClient) -> int:
        num_streams = 0
        while not is_done.is_set():
            assert await CountedStreams([client], num_tokens).ends() == [num_tokens]
            num_streams += 1
        return num_streams

    async with clients(cluster, count) as several:
        asking = [asyncio.create_task(keep_asking(client)) for client in several]
        await asyncio.sleep(1)
        yield
        is_done.set()
        assert min(await asyncio.gather(*asking)) >= 2


def replicas(cluster: RunningCluster, deployment: str) -> list[psutil.Process]:
    """Serve's replica processes of a deployment."""
    details = cluster.status()[deployment]["details"]
    return [psutil.Process(detail["pid"]) for detail in details]


def engine_core_counts(cluster: RunningCluster) -> list[int]:
    """Of each replica that answers."""
    return [len(spawned_by(each)) for each in replicas(cluster, f"engine-{MODEL}")]


async def num_cached(client: AsyncClient, prompt: list[int], request_id: str = "") -> int:
    answer = await client.generate_unary(
        prompt, request_id=request_id, max_tokens=1, temperature=0
    )
    assert answer.usage is not None
    return answer.usage.num_cached_tokens


def num_indexed_blocks(cluster: RunningCluster) -> list[int]:
    """Of each gateway; 0 where it does not follow the index."""
    indexes = [d["prefix_index"][MODEL] for d in cluster.status()["gateway"]["details"]]
    return [each["num_blocks"] if each["state"] == "current" else 0 for each in indexes]


def index_server(cluster: RunningCluster) -> psutil.Process:
    """The server process that the prefix index lies in, once there is one."""
    while True:
        found = [p for p in cluster.processes() if p.name() == "valkey-server"]
        if found:
            return found[0]
        time.sleep(0.1)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def num_connections(server: psutil.Process, port: int) -> int:
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in server.net_connections(kind="tcp")
    )


def num_open_calls(cluster: RunningCluster) -> int:
    details = cluster.status()[f"engine-{MODEL}"]["details"]
    return sum(detail["num_open_calls"] for detail in details)


async def test_gateways_share_their_ports_and_the_load_is_spread(
    cluster: RunningCluster,
) -> None:
    port = int(cluster.address.rsplit(":", 1)[1])
    gateways = replicas(cluster, "gateway")
    async with clients(cluster, 16) as several:
        streams = CountedStreams(several, 400)
        await streams.all_have(1)
        states = await asyncio.to_thread(cluster.status)
        connections = [num_connections(gateway, port) for gateway in gateways]
        assert await streams.ends() == [400] * 16
    assert len(connections) == 2
    assert sum(connections) == 16
    assert min(connections) > 0
    # Each gateway spreads what it has; both together are even to one call each.
    calls = [detail["num_open_calls"] for detail in states[f"engine-{MODEL}"]["details"]]
    assert sum(calls) == 16
    assert abs(calls[0] - calls[1]) <= 2


async def test_a_prompt_goes_where_its_prefix_lies_by_whichever_gateway(
    cluster: RunningCluster,
) -> None:
    prompts = [list(range(start, start + 400)) for start in (1000, 2000, 3000)]
    async with clients(cluster, 8) as several:
        for prompt in prompts:
            assert await num_cached(several[0], prompt) == 0
        # The engines' events pass the index's server on their way to the gateways.
        await asyncio.to_thread(wait_until, lambda: min(num_indexed_blocks(cluster)) >= 9, 30)
        for prompt in prompts:
            assert [await num_cached(client, prompt) for client in several] == [384] * 8


async def test_requests_are_served_without_the_indexs_server_and_it_recovers(
    cluster: RunningCluster,
) -> None:
    before = num_indexed_blocks(cluster)
    server = index_server(cluster)
    async with clients(cluster, 4) as several:
        streams = CountedStreams(several * 2, 400)
        await streams.all_have(20)
        server.kill()
        assert await streams.ends() == [400] * 8
    # It comes back empty, and the engines tell it all that they have.
    wait_until(lambda: index_server(cluster).pid != server.pid, 30)
    wait_until(lambda: min(num_indexed_blocks(cluster)) >= min(before) > 0, 60)


async def test_a_gateway_that_is_killed_takes_only_its_own_streams_along(
    cluster: RunningCluster,
) -> None:
    gateways = replicas(cluster, "gateway")
    async with clients(cluster, 8) as several:
        streams = CountedStreams(several, 400)
        await streams.all_have(20)
        gateways[0].send_signal(signal.SIGKILL)
        ends = await streams.ends()
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(error, UnavailableError) for error in failed), failed
    assert ends.count(400) == 8 - len(failed)
    async with clients(cluster, 4) as several:
        assert await serves_all(several)
    assert num_open_calls(cluster) == 0
    wait_until(cluster.is_whole, 120)


def explained(cluster: RunningCluster, request_id: str) -> dict[str, Any]:
    """Where a request went, and what was expected to be cached there."""
    (call,) = cluster.explain(request_id)
    return {key: call[key] for key in ("replica_id", "num_expected_cached_tokens")}


@pytest.mark.slow
async def test_after_a_restart_of_all_but_the_indexs_server_only_living_caches_count(
    cluster: RunningCluster,
) -> None:
    prompts = {
        f"before-{start}": list(range(start, start + 400)) for start in range(5000, 5200, 50)
    }
    async with clients(cluster, 1) as (client,):
        # At once, so that each goes where the others are not.
        await asyncio.gather(*(num_cached(client, prompts[r], r) for r in prompts))
    holders = {r: explained(cluster, r)["replica_id"] for r in prompts}
    assert len(set(holders.values())) == 2
    printed = cluster.coterie("explain", "before-5000", "-f", str(cluster.file), "--json")
    assert json.loads(printed) == cluster.explain("before-5000")
    server = index_server(cluster)
    states = cluster.status()
    engine, survivor = states[f"engine-{MODEL}"]["details"]
    for pid in (engine["pid"], *(each["pid"] for each in states["gateway"]["details"])):
        psutil.Process(pid).send_signal(signal.SIGKILL)
    wait_until(cluster.is_whole, 120)
    assert index_server(cluster).pid == server.pid
    async with clients(cluster, 1) as (client,):
        for request_id, prompt in prompts.items():
            found = await num_cached(client, prompt, f"after-{request_id}")
            told = explained(cluster, f"after-{request_id}")
            has_survived = holders[request_id] == survivor["replica_id"]
            expected = 384 if has_survived else 0
            assert (told["num_expected_cached_tokens"], found) == (expected, expected)
            assert told["replica_id"] == survivor["replica_id"] or not has_survived


async def heard_by_all(cluster: RunningCluster, num_tokens: int, heard: list[Heard]) -> None:
    """All prompts at once, half of them by gRPC and half by HTTP."""
    async with clients(cluster, len(heard)) as several, EventClient(cluster.http_url) as http:
        await asyncio.gather(
            *(
                by_http(http, MODEL, number, num_tokens, heard[number])
                if number % 2
                else by_grpc(several[number], number, num_tokens, heard[number])
                for number in range(len(heard))
            )
        )


async def test_streams_of_an_engine_replica_that_is_killed_go_on_as_if_nothing_were(
    cluster: RunningCluster,
) -> None:
    undisturbed = [Heard() for _ in range(16)]
    await heard_by_all(cluster, 400, undisturbed)
    replica = replicas(cluster, f"engine-{MODEL}")[0]
    core = engine_core_of(replica.pid)
    heard = [Heard() for _ in range(16)]
    streams = asyncio.create_task(heard_by_all(cluster, 400, heard))
    while min(len(each.times_s) for each in heard) < 30:
        assert not streams.done()
        await asyncio.sleep(0.01)
    assert not any(each.finish_reason for each in heard)
    replica.send_signal(signal.SIGKILL)
    await streams
    assert heard == undisturbed
    assert [each.num_output_tokens for each in heard] == [400] * 16
    wait_until(lambda: is_gone(core), 30)
    wait_until(cluster.is_whole, 120)


async def test_a_stuck_engine_core_is_noticed_and_nothing_of_it_stays(
    cluster: RunningCluster,
) -> None:
    replica = replicas(cluster, f"engine-{MODEL}")[0]
    core = engine_core_of(replica.pid)
    async with clients(cluster, 8) as several:
        streams = CountedStreams(several, 400)
        await streams.all_have(20)
        core.send_signal(signal.SIGSTOP)
        # Once it counts as stuck, its streams go on with the other one.
        assert await streams.ends() == [400] * 8
    # The replica that failed is still there, and without any load.
    async with clients(cluster, 8) as several:
        assert await serves_all(several)
    wait_until(lambda: is_gone(core), 30)
    wait_until(cluster.is_whole, 120)


@pytest.mark.slow
async def test_no_stream_is_lost_while_the_engines_are_replaced_by_a_new_configuration(
    cluster: RunningCluster, section: dict[str, Any]
) -> None:
    before = replicas(cluster, f"engine-{MODEL}")
    async with asking_all_along(cluster, 2, num_tokens=40):
        await asyncio.to_thread(cluster.change, models=[section | {"max_num_seqs": 32}])
    after = replicas(cluster, f"engine-{MODEL}")
    assert not {p.pid for p in before} & {p.pid for p in after}


async def test_engines_stay_where_the_router_alone_is_configured_anew(
    cluster: RunningCluster,
) -> None:
    def pids() -> list[set[int]]:
        names = "gateway", f"engine-{MODEL}"
        return [{each.pid for each in replicas(cluster, name)} for name in names]

    gateways, engines = pids()
    await asyncio.to_thread(cluster.change, router={"max_resumes": 1})
    found = pids()
    assert not found[0] & gateways
    assert found[1] == engines


async def test_an_engine_replica_that_is_taken_away_ends_its_streams_first(
    cluster: RunningCluster,
) -> None:
    [section] = cluster.section("models")
    smaller = section | {"num_replicas": 1}

    def is_told() -> bool:
        return bool(cluster.status()[f"engine-{MODEL}"]["num_wanted"] == 1)

    async with asking_all_along(cluster, 4, num_tokens=150):
        changing = asyncio.create_task(asyncio.to_thread(cluster.change, models=[smaller]))
        await asyncio.to_thread(wait_until, is_told, 120)
    await changing
    wait_until(lambda: engine_core_counts(cluster) == [1], 60)


async def test_an_engine_replica_that_is_killed_leaves_no_engine_process(
    cluster: RunningCluster,
) -> None:
    (replica,) = replicas(cluster, f"engine-{MODEL}")
    core = engine_core_of(replica.pid)
    replica.send_signal(signal.SIGKILL)
    wait_until(lambda: is_gone(core), 30)
