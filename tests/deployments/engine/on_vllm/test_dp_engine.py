"""A real engine of two data-parallel ranks: a prompt goes to the rank that has it."""

import asyncio
import os
from pathlib import Path

import pytest

from deployments.engine.plan import CORE_EXECUTOR, plan_engine_args, plan_kv_events
from deployments.types import Call, Sampling
from tests.builders.kv_events import KeptChanges
from tests.deployments.engine.on_vllm.tiny_gemma import MODEL, tiny_section, write_tiny_gemma

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

PROMPT = list(range(3, 103))


async def test_a_prompt_goes_to_the_rank_that_has_it_and_others_to_the_idle_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.engine.engine import Engine  # noqa: PLC0415 - takes seconds

    monkeypatch.setitem(os.environ, "VLLM_NO_USAGE_STATS", "1")
    section = tiny_section(data_parallel_size=2)
    path = str(write_tiny_gemma(tmp_path / "model"))
    args = plan_engine_args(section, "cpu", path, CORE_EXECUTOR)
    engine = await asyncio.to_thread(
        Engine.start, args | plan_kv_events(section, tmp_path), dict[str, str]()
    )
    sink = KeptChanges()
    pump = await engine.follow_kv_events(MODEL)
    assert pump is not None
    pump.attach(sink)

    async def cached(request_id: str, rank_prefixes: dict[int, int]) -> int:
        sampling = Sampling(temperature=0, max_tokens=3, ignore_eos=True)
        call = Call(request_id, PROMPT, sampling, rank_prefixes=rank_prefixes)
        return max([delta.num_cached_tokens async for delta, _ in engine.run(call)])

    try:
        assert engine.info.dp_ranks == (0, 1)
        assert await cached("first", {}) == 0
        async with asyncio.timeout(20):
            while not any(sink.held.values()):
                await asyncio.sleep(0.05)
        ((rank, _),) = [place for place, held in sink.held.items() if held]
        assert [await cached(f"again-{n}", {rank: 96}) for n in range(3)] == [96] * 3
        assert await cached("elsewhere", {1 - rank: 96}) == 0
        # Both ranks tell of their steps, and neither writes over what the other has told.
        assert len(engine.load._ranks) == 2
    finally:
        await pump.stop()
        await asyncio.to_thread(engine.shutdown)
