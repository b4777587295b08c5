"""A model's calls over real links: what is told, decided, noted and explained."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import cast

from deployments.engine.link_server import LinkServer
from deployments.engine.load_book import EngineStats, no_stats
from deployments.gateway.call_id import new_call_id, request_id_of
from deployments.gateway.served_model import ServedModel
from deployments.gateway.tokenizer import Tokenizer
from deployments.settings import ModelSection
from deployments.types import Call, Sampling
from router.prefix_lookup import FoundPrefixes, NoPrefixIndex, PrefixLookup
from router.settings import RouterSection
from router.types import (
    KvRoom,
    PolicyName,
    ReplicaId,
    RoutedRequest,
    SessionKey,
    UsablePrefix,
)
from tests.builders.fake_engine import FakeEngine

TOKEN = "secret"
PROMPT = list(range(100))


class FixedPrefixes:
    """A `PrefixLookup` that answers always the same, and records what it was asked."""

    def __init__(self, replica_to_tokens: Mapping[str, int]) -> None:
        self.asked: list[tuple[Sequence[int], str | None, str | None]] = []
        self.expected: list[ReplicaId] = []
        self.found = {ReplicaId(r): UsablePrefix(n) for r, n in replica_to_tokens.items()}

    def look_up(
        self, token_ids: Sequence[int], adapter: str | None, cache_salt: str | None
    ) -> FoundPrefixes:
        """See `PrefixLookup.look_up`."""
        self.asked.append((token_ids, adapter, cache_salt))
        return FoundPrefixes(self.found, self.expected.append)


class Fleet:
    """Two engine replicas, `e0` and `e1`, and gateways to them."""

    def __init__(self, *, kv: KvRoom | None = None) -> None:
        self.engines = [FakeEngine(is_free_running=False) for _ in range(2)]
        stats = (lambda: EngineStats(kv=kv)) if kv else no_stats
        self.servers = [LinkServer(engine, TOKEN, stats) for engine in self.engines]
        self.models: list[ServedModel] = []
        self._addresses: dict[str, dict[str, object]] = {}

    async def __aenter__(self) -> "Fleet":
        for number, server in enumerate(self.servers):
            port = await server.start("127.0.0.1")
            address = {"address": f"127.0.0.1:{port}", "max_model_len": 100, "vocab_size": 100}
            self._addresses[f"e{number}"] = address
        return self

    async def __aexit__(self, *_: object) -> None:
        for model in self.models:
            model.check_invariants()
            await model.close()
        for server in self.servers:
            await server.stop()
            server.check_invariants()

    async def gateway(
        self, policy: PolicyName = "cost", prefixes: PrefixLookup | None = None
    ) -> ServedModel:
        """One more gateway, with both links up."""
        tokenizer = cast(Tokenizer, SimpleNamespace(vocab_size=100, has_chat_template=False))
        section = ModelSection(name="m", model="some/model")
        model = ServedModel(section, tokenizer, TOKEN, RouterSection(policy=policy), prefixes)
        self.models.append(model)
        model.set_replicas(self._addresses)
        async with asyncio.timeout(5):
            while model.num_ready_replicas < 2:
                await asyncio.sleep(0.005)
        return model

    async def until_open(self, num: int) -> None:
        """So many calls are with the engines."""
        async with asyncio.timeout(5):
            while sum(len(e.open_request_ids) for e in self.engines) < num:
                await asyncio.sleep(0.005)

    async def until_full(self, model: ServedModel) -> None:
        """The gateway has been told that no replica has all its room."""
        ledger = model.routing._ledger
        async with asyncio.timeout(5):
            while True:
                found = ledger.candidates(RoutedRequest(1), {}, time.monotonic())
                if all(c.kv is not None and c.kv.free_tokens == 150 for c in found):
                    return
                await asyncio.sleep(0.005)

    async def until_told(self, model: ServedModel, num: int) -> None:
        """The gateway knows of so many sequences, over all gateways."""
        async with asyncio.timeout(5):
            while num_sequences_at(model) != num:
                await asyncio.sleep(0.005)

    async def finish(self, *runs: "asyncio.Task[int]") -> None:
        """Let the engines step until these are through."""
        while not all(run.done() for run in runs):
            for engine in self.engines:
                engine.step()
            await asyncio.sleep(0.005)


def num_sequences_at(model: ServedModel) -> int:
    """As the gateway reckons, where reports of all replicas are fresh; else -1."""
    found = model.routing._ledger.candidates(RoutedRequest(1), {}, time.monotonic())
    is_fresh = all(c.is_load_fresh for c in found)
    return sum(c.load.num_sequences for c in found) if is_fresh else -1


def start(model: ServedModel, request_id: str, **fields: object) -> "asyncio.Task[int]":
    """A call under way; its result is how many deltas it got."""
    call = Call(new_call_id(request_id), PROMPT, Sampling(max_tokens=2), **fields)  # type: ignore[arg-type]

    async def run() -> int:
        return len([delta async for delta in model.run(call, 5)])

    return asyncio.create_task(run())


async def test_a_second_gateway_learns_at_once_what_the_first_has_where() -> None:
    async with Fleet() as fleet:
        first = await fleet.gateway("least_loaded")
        runs = [start(first, "r0")]
        await fleet.until_open(1)
        (busy,) = [n for n, e in enumerate(fleet.engines) if e.open_request_ids]
        second = await fleet.gateway("least_loaded")
        await fleet.until_told(second, 1)
        runs.append(start(second, "r1"))
        await fleet.until_open(2)
        assert len(fleet.engines[1 - busy].open_request_ids) == 1
        (told,) = second.routing.log.explain("r1")
        by_id = {row.candidate.replica_id: row.candidate for row in told.rows}
        assert by_id[ReplicaId(f"e{busy}")].load.queued_prefill_tokens == len(PROMPT)
        assert all(c.is_load_fresh for c in by_id.values())
        await fleet.finish(*runs)


async def test_what_a_gateway_has_begun_since_is_told_to_the_others() -> None:
    async with Fleet() as fleet:
        first, second = await fleet.gateway("least_loaded"), await fleet.gateway("least_loaded")
        runs = []
        for number in range(6):
            runs.append(start((first, second)[number % 2], f"r{number}"))
            await fleet.until_open(number + 1)
            for gateway in (first, second):
                await fleet.until_told(gateway, number + 1)
        assert [len(e.open_request_ids) for e in fleet.engines] == [3, 3]
        await fleet.finish(*runs)


async def test_the_prefix_index_is_asked_and_the_replica_that_has_more_is_chosen() -> None:
    prefixes = FixedPrefixes({"e1": 96})
    async with Fleet() as fleet:
        model = await fleet.gateway("cost", prefixes)
        runs = [start(model, "r", adapter=None, cache_salt="salt") for _ in range(2)]
        await fleet.until_open(2)
        assert [len(e.open_request_ids) for e in fleet.engines] == [0, 2]
        assert prefixes.asked == [(PROMPT, None, "salt")] * 2
        assert prefixes.expected == ["e1"] * 2
        first = model.routing.log.explain("r")[0]
        assert (first.replica_id, first.num_expected_cached_tokens) == ("e1", 96)
        (row,) = [r for r in first.rows if r.outcome == "chosen"]
        assert row.terms["prefill"] == 4
        # The engine counts the prompt as the gateway does.
        assert fleet.servers[1].load._total.load.queued_prefill_tokens == 2 * 4
        await fleet.finish(*runs)


async def test_the_replica_is_told_which_of_its_ranks_has_how_much() -> None:
    prefixes = FixedPrefixes({})
    prefixes.found[ReplicaId("e1")] = UsablePrefix(96, 0, {1: 96})
    async with Fleet() as fleet:
        model = await fleet.gateway("cost", prefixes)
        run = start(model, "r")
        await fleet.until_open(1)
        (told,) = fleet.engines[1].open_calls.values()
        assert told.rank_prefixes == {1: 96}
        await fleet.finish(run)


async def test_policies_that_need_no_index_do_not_ask_it() -> None:
    prefixes = FixedPrefixes({})
    async with Fleet() as fleet:
        model = await fleet.gateway("least_loaded", prefixes)
        run = start(model, "r")
        await fleet.until_open(1)
        await fleet.finish(run)
    assert prefixes.asked == []


async def test_without_an_index_a_prompt_stays_where_it_was_and_the_log_says_by_what() -> None:
    async with Fleet() as fleet:
        for index in (None, NoPrefixIndex()):
            model = await fleet.gateway("cost", index)
            for _ in range(3):
                run = start(model, "r")
                await fleet.until_open(1)
                await fleet.finish(run)
            found = model.routing.log.explain("r")
            assert len({call.replica_id for call in found}) == 1
            assert {(c.policy, c.applied) for c in found} == {("cost", "consistent_hash")}


async def test_a_session_goes_where_its_key_goes_whatever_the_prompt() -> None:
    async with Fleet() as fleet:
        model = await fleet.gateway()
        chosen = set()
        for number in range(4):
            run = start(model, f"r{number}", session=SessionKey(7))
            await fleet.until_open(1)
            await fleet.finish(run)
            chosen.add(model.routing.log.explain(f"r{number}")[0].replica_id)
        assert len(chosen) == 1


async def test_a_replica_that_says_it_drains_is_asked_no_more() -> None:
    async with Fleet() as fleet:
        model = await fleet.gateway("round_robin")
        await fleet.servers[0].drain(0)
        async with asyncio.timeout(5):
            while model.num_ready_replicas == 2:
                await asyncio.sleep(0.005)
        run = start(model, "r")
        await fleet.until_open(1)
        (told,) = model.routing.log.explain("r")
        assert {r.candidate.replica_id: r.outcome for r in told.rows} == {
            "e0": "draining",
            "e1": "chosen",
        }
        await fleet.finish(run)


async def test_what_was_found_cached_is_noted_and_compared_with_what_was_expected() -> None:
    async with Fleet() as fleet:
        model = await fleet.gateway("cost", FixedPrefixes({"e0": 64}))
        run = start(model, "r")
        await fleet.until_open(1)
        (told,) = model.routing.log.explain("r")
        assert (told.num_found_cached_tokens, told.has_ended) == (None, False)
        await fleet.finish(run)
        (told,) = model.routing.log.explain("r")
        assert (told.num_found_cached_tokens, told.has_ended) == (0, True)
        counts = model.routing.log.counts
        assert (counts.num_expected_cached_tokens, counts.num_missed_tokens) == (64, 64)
        assert counts.decisions == {"cost": 1}


async def test_a_request_that_is_not_known_has_no_explanation() -> None:
    async with Fleet() as fleet:
        model = await fleet.gateway()
        assert model.routing.log.explain("never") == []


def test_calls_are_found_by_the_id_of_their_request() -> None:
    for request_id in ("r", "r-1", "r-12345678", "", "-"):
        call_id = new_call_id(request_id)
        assert call_id != new_call_id(request_id)
        assert request_id_of(call_id) == request_id
    assert request_id_of("plain") == "plain"


async def test_room_is_what_the_replicas_report_and_a_known_prefix_takes_none() -> None:
    call = Call("r-00000000", PROMPT, Sampling(max_tokens=60))
    async with Fleet(kv=KvRoom(150, 1000)) as fleet:
        model = await fleet.gateway("cost", FixedPrefixes({}))
        # Engines without calls have all their room, whatever they last said.
        assert model.routing.has_room(call)
        runs = [start(model, f"r{n}") for n in range(2)]
        await fleet.until_open(2)
        await fleet.until_told(model, 2)
        await fleet.until_full(model)
        # 150 free, 160 needed.
        assert not model.routing.has_room(call)
        knowing = await fleet.gateway("cost", FixedPrefixes({"e1": 96}))
        await fleet.until_full(knowing)
        assert knowing.routing.has_room(call)
        long_one = Call("s-00000000", PROMPT, Sampling(max_tokens=150))
        assert not knowing.routing.has_room(long_one)
        # It may be cached: without an index nobody is held.
        unknowing = await fleet.gateway("cost")
        await fleet.until_full(unknowing)
        assert unknowing.routing.has_room(call)
        await fleet.finish(*runs)


async def test_news_of_a_replica_s_load_reaches_who_listens() -> None:
    async with Fleet() as fleet:
        model = await fleet.gateway()
        heard: list[None] = []
        model.on_report(lambda: heard.append(None))
        run = start(model, "r")
        await fleet.until_open(1)
        await fleet.finish(run)
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.005)
