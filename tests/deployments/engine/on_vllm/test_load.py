"""What an engine's ranks tell of their load, together."""

from types import SimpleNamespace

import pytest

from deployments.engine.load import EngineLoad, LoadLogger
from deployments.engine.load_book import EngineStats
from router.types import DraftCounts, KvRoom

pytestmark = pytest.mark.model


def step(
    num_running: int,
    num_waiting: int,
    kv_usage: float,
    drafts: tuple[int, int, int] | None = None,
) -> SimpleNamespace:
    """What vLLM's scheduler says after a step."""
    return SimpleNamespace(
        num_running_reqs=num_running,
        num_waiting_reqs=num_waiting,
        kv_cache_usage=kv_usage,
        spec_decoding_stats=drafts
        and SimpleNamespace(
            num_drafts=drafts[0], num_draft_tokens=drafts[1], num_accepted_tokens=drafts[2]
        ),
    )


def test_an_engine_that_has_not_run_yet_is_empty() -> None:
    assert EngineLoad().stats(1000) == EngineStats(0, 0, KvRoom(1000, 1000))


def test_the_ranks_of_an_engine_are_told_as_one() -> None:
    load = EngineLoad()
    first, second = (LoadLogger(load.of_rank(rank)) for rank in (0, 1))
    first.record(step(3, 2, 0.5), None)
    second.record(step(1, 0, 0.1), None)
    assert load.stats(1000) == EngineStats(4, 2, KvRoom(700, 1000))
    second.record(None, None)
    first.record(step(0, 0, 0.0), None)
    assert load.stats(1000) == EngineStats(1, 0, KvRoom(950, 1000))


def test_room_is_not_told_where_it_is_not_known() -> None:
    load = EngineLoad()
    LoadLogger(load.of_rank(0)).record(step(1, 0, 0.2), None)
    assert load.stats(0) == EngineStats(1, 0, None)


def test_drafts_are_counted_from_the_start_on_and_over_all_ranks() -> None:
    load = EngineLoad()
    first, second = (LoadLogger(load.of_rank(rank)) for rank in (0, 1))
    assert load.drafts == DraftCounts()
    for drafts in ((2, 8, 5), None, (1, 4, 0)):
        first.record(step(1, 0, 0.1, drafts), None)
    second.record(step(1, 0, 0.1, (1, 2, 2)), None)
    assert load.drafts == DraftCounts(num_drafts=4, num_tokens=14, num_accepted=7)
    assert load.stats(0).drafts == load.drafts


def test_sequences_get_more_than_a_token_a_step_where_drafts_are_accepted() -> None:
    load = EngineLoad()
    assert load.stats(0).tokens_per_step == 1.0
    logger = LoadLogger(load.of_rank(0))
    for _ in range(1000):
        logger.record(step(4, 0, 0.1, (2, 8, 6)), None)
    assert load.stats(0).tokens_per_step == pytest.approx(2.5, rel=0.01)
    for _ in range(1000):
        logger.record(step(4, 0, 0.1), None)
    assert load.stats(0).tokens_per_step == pytest.approx(1.0, rel=0.01)
