"""From an engine replica's changes through a real server to a gateway's lookups."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from cache.block_hash import block_hashes, chain_seed
from cache.settings import CacheSection
from cache.store.publisher import Publisher
from cache.token_ids import token_array
from cache.types import BlockGroup, ChainContext, Change, Hashes, Holder
from deployments.gateway import prefix_index
from deployments.gateway.prefix_index import PrefixIndex
from deployments.prefix_store import PrefixStore
from router.types import ReplicaId, UsablePrefix
from tests.builders.metadata_server import Server, valkey
from tests.builders.until import until

MODEL = "some/model"
GROUP = BlockGroup("full", 4)
PROMPT = list(range(100, 122))
NONE = np.empty(0, np.uint64)


def hashes_of(tokens: list[int], adapter: str | None = None, salt: str | None = None) -> Hashes:
    context = ChainContext(MODEL, adapter, salt)
    return block_hashes(token_array(tokens), 4, chain_seed(context, 0, 4))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    made = Server(valkey(), tmp_path)
    made.start()
    return made


@pytest_asyncio.fixture
async def store(server: Server) -> AsyncIterator[PrefixStore]:
    section = CacheSection(timeout_s=1)
    arguments = {"cache": section.model_dump(mode="json"), "url": server.url, "app_name": "a"}
    made = PrefixStore.from_arguments(arguments)
    assert made is not None
    yield made
    await made.close()
    server.kill()


@pytest_asyncio.fixture
async def index(store: PrefixStore) -> AsyncIterator[PrefixIndex]:
    made = PrefixIndex(store, MODEL, expected_s=60)
    made.learn({"e1": {"groups": [asdict(GROUP)]}})
    await asyncio.wait_for(made.wait_current(), 10)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def replica(store: PrefixStore) -> AsyncIterator[Publisher]:
    of_model = store.of_model(MODEL, [GROUP])
    made = Publisher(of_model, Holder("e1"), lambda: NONE)
    made.start()
    yield made
    await made.close()


def usable(
    index: PrefixIndex, prompt: list[int], adapter: str | None, salt: str | None
) -> Mapping[ReplicaId, UsablePrefix]:
    found = index.look_up(prompt, adapter, salt)
    assert found is not None
    return found.usable


async def begun(replica: Publisher) -> None:
    await until(lambda: replica.epoch is not None, 10)


async def test_what_a_replica_stores_is_found_and_what_it_removes_is_not(
    index: PrefixIndex, replica: Publisher
) -> None:
    await begun(replica)
    assert usable(index, PROMPT, None, None) == {}
    stored = hashes_of(PROMPT)
    replica.publish(Change(0, stored, NONE))
    await until(lambda: bool(usable(index, PROMPT, None, None)), 10)
    assert usable(index, PROMPT, None, None) == {"e1": UsablePrefix(20, 0)}
    assert usable(index, PROMPT[:9] + [7] * 9, None, None) == {"e1": UsablePrefix(8, 0)}
    replica.publish(Change(1, NONE, stored[1:]))
    await until(lambda: usable(index, PROMPT, None, None) == {"e1": UsablePrefix(4, 0)}, 10)


async def test_the_last_token_of_a_prompt_is_always_computed(
    index: PrefixIndex, replica: Publisher
) -> None:
    await begun(replica)
    replica.publish(Change(0, hashes_of(PROMPT), NONE))
    await until(lambda: bool(usable(index, PROMPT, None, None)), 10)
    assert usable(index, PROMPT[:8], None, None) == {"e1": UsablePrefix(7, 0)}
    assert usable(index, [], None, None) == {}


async def test_where_a_prompt_was_sent_its_prefix_is_expected_until_the_index_says_so(
    index: PrefixIndex, replica: Publisher
) -> None:
    await begun(replica)
    replica.publish(Change(0, hashes_of(PROMPT[:8]), NONE))
    await until(lambda: bool(usable(index, PROMPT, None, None)), 10)
    found = index.look_up(PROMPT, None, None)
    assert found is not None
    for replica_id in ("e1", "e2"):
        found.expect(ReplicaId(replica_id))
    both = {"e1": UsablePrefix(20, 0), "e2": UsablePrefix(20, 0)}
    assert usable(index, PROMPT, None, None) == both
    assert usable(index, PROMPT[:8], None, None)[ReplicaId("e2")] == UsablePrefix(7, 0)
    assert usable(index, PROMPT, None, "salt") == {}


async def test_each_rank_of_a_replica_is_told_and_the_best_one_counts(
    store: PrefixStore, index: PrefixIndex, replica: Publisher
) -> None:
    index.learn({"e1": {"groups": [asdict(GROUP)], "dp_ranks": [0, 1]}})
    other_rank = Publisher(store.of_model(MODEL, [GROUP]), Holder("e1", 1), lambda: NONE)
    other_rank.start()
    await begun(replica)
    await begun(other_rank)
    replica.publish(Change(0, hashes_of(PROMPT[:8]), NONE))
    other_rank.publish(Change(0, hashes_of(PROMPT), NONE))
    wanted = {"e1": UsablePrefix(20, 0, {0: 8, 1: 20})}
    await until(lambda: usable(index, PROMPT, None, None) == wanted, 10)
    await other_rank.close()


@pytest.mark.parametrize("other", [("adapter", None), (None, "salt")])
async def test_adapters_and_cache_salts_have_prefixes_of_their_own(
    index: PrefixIndex, replica: Publisher, other: tuple[str | None, str | None]
) -> None:
    await begun(replica)
    replica.publish(Change(0, hashes_of(PROMPT, *other), NONE))
    await until(lambda: bool(usable(index, PROMPT, *other)), 10)
    assert usable(index, PROMPT, None, None) == {}


async def test_an_index_whose_server_is_gone_is_away_after_a_while(
    index: PrefixIndex, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable(index, PROMPT, None, None) == {}
    monkeypatch.setattr(prefix_index, "_STALE_FOR_S", 0.0)
    server.kill()
    await until(lambda: index.look_up(PROMPT, None, None) is None, 10)
    assert index.status()["state"] == "stale"


async def test_before_the_first_replica_the_index_is_away(store: PrefixStore) -> None:
    index = PrefixIndex(store, MODEL, expected_s=60)
    index.learn({})
    index.learn({"e1": {"groups": []}})
    assert index.look_up(PROMPT, None, None) is None
    assert index.status() == {"state": "empty"}
    await index.close()
