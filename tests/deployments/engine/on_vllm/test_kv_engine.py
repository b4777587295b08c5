"""A real engine's KV events: what its holder has is what was computed, and what it uses.

The model has sliding-window layers, an adapter and a cache of few blocks.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cache.types import BlockGroup, ChainContext
from deployments.engine.kv_events.pump import KvEventPump
from deployments.engine.plan import CORE_EXECUTOR, plan_engine_args, plan_kv_events
from deployments.types import Call, Sampling
from tests.builders.kv_events import KeptChanges
from tests.deployments.engine.on_vllm.tiny_gemma import (
    BLOCK_SIZE,
    MODEL,
    WINDOW,
    tiny_section,
    write_tiny_adapter,
    write_tiny_gemma,
)
from tests.reference.kv_events import chain, usable_prefix

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

GROUPS = (BlockGroup("sliding_window", BLOCK_SIZE, WINDOW), BlockGroup("full", BLOCK_SIZE))
NUM_OUTPUT_TOKENS = 12


class Serving:
    """An engine, and a sink behind its pump."""

    def __init__(self, folder: Path) -> None:
        from deployments.engine.engine import Engine  # noqa: PLC0415 - takes seconds

        section = tiny_section({"poet": str(write_tiny_adapter(folder / "poet"))})
        path = str(write_tiny_gemma(folder / "model"))
        args = plan_engine_args(section, "cpu", path, CORE_EXECUTOR) | plan_kv_events(
            section, folder
        )
        self.engine = Engine.start(args, dict(section.adapters))
        self.sink = KeptChanges()
        self._num_asked = 0
        self.pump: KvEventPump

    async def follow(self) -> None:
        pump = await self.engine.follow_kv_events(MODEL)
        assert pump is not None
        self.pump = pump
        self.pump.attach(self.sink)

    async def ask(
        self,
        prompt: list[int],
        adapter: str | None = None,
        salt: str | None = None,
        num_output_tokens: int = NUM_OUTPUT_TOKENS,
    ) -> tuple[list[int], int]:
        """All tokens that were computed, and how many came from the cache."""
        sampling = Sampling(temperature=0, max_tokens=num_output_tokens, ignore_eos=True)
        self._num_asked += 1
        call = Call(f"call-{self._num_asked}", prompt, sampling, adapter, cache_salt=salt)
        output: list[int] = []
        num_cached_tokens = 0
        async for delta, _ in self.engine.run(call):
            output += delta.token_ids
            num_cached_tokens = max(num_cached_tokens, delta.num_cached_tokens)
        await self.settle()
        return prompt + output[:-1], num_cached_tokens  # the last one is never fed back

    async def settle(self) -> None:
        """Wait until the pump has all that was published."""
        num_batches = -1
        async with asyncio.timeout(20):
            while num_batches != self.pump.counters.num_batches:
                num_batches = self.pump.counters.num_batches
                await asyncio.sleep(0.15)  # the publisher's thread looks every 0.1 s

    async def clear(self) -> None:
        """The engine tells of it with the next request's events."""
        assert await self.engine._llm.reset_prefix_cache()

    @property
    def held(self) -> set[int]:
        held = self.sink.held[0, "device"]
        assert held == set(self.pump.current_hashes(0, "device").tolist())
        return held


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "VLLM_NO_USAGE_STATS", "1")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(
    tmp_path_factory: pytest.TempPathFactory, environment: None
) -> AsyncIterator[Serving]:
    folder = tmp_path_factory.mktemp("kv")
    serving = await asyncio.to_thread(Serving, folder)
    await serving.follow()
    yield serving
    await serving.pump.stop()
    await asyncio.to_thread(serving.engine.shutdown)


def hashes(
    tokens: list[int],
    num_prompt_tokens: int,
    adapter: str | None = None,
    salt: str | None = None,
) -> set[int]:
    """Of all full blocks with full attention, and of the window at the prompt's end.

    vLLM keeps no other windows by default: the prompt may be asked again from there,
    with its last token to be computed in any case.
    """
    context = ChainContext(MODEL, adapter, salt)
    windows, full = (chain(tokens, context, GROUPS, place) for place in range(len(GROUPS)))
    end = (num_prompt_tokens - 1) // BLOCK_SIZE
    num_blocks = -(-(WINDOW - 1) // BLOCK_SIZE)
    return {*full, *windows[max(0, end - num_blocks) : end]}


def prompt_of(number: int, num_tokens: int) -> list[int]:
    return [(number * 53 + i * i * 7) % 250 + 3 for i in range(num_tokens)]


async def test_an_engine_tells_its_groups(serving: Serving) -> None:
    assert serving.engine.info.groups == GROUPS
    assert serving.engine.info.dp_ranks == (0,)


async def test_what_is_computed_is_held_by_context_until_the_cache_is_cleared(
    serving: Serving,
) -> None:
    prompt = prompt_of(1, 150)
    await serving.clear()
    plain, _ = await serving.ask(prompt)
    assert len(plain) == len(prompt) + NUM_OUTPUT_TOKENS - 1
    assert serving.held == hashes(plain, 150)

    salted, num_cached = await serving.ask(prompt, salt="s")
    adapted, num_cached_adapted = await serving.ask(prompt, adapter="poet", salt="s")
    assert (num_cached, num_cached_adapted) == (0, 0)
    all_held = (
        hashes(plain, 150) | hashes(salted, 150, salt="s") | hashes(adapted, 150, "poet", "s")
    )
    assert serving.held == all_held

    _, num_cached = await serving.ask(prompt, salt="s")
    assert (num_cached, serving.held) == (128, all_held)

    await serving.clear()
    after, _ = await serving.ask(prompt_of(3, 70))
    assert ("clear", 0, "device") in serving.sink.told
    assert serving.held == hashes(after, 70)


async def test_equal_prompts_at_once_leave_one_of_each_block(serving: Serving) -> None:
    prompt = prompt_of(4, 100)
    answers = await asyncio.gather(*(serving.ask(prompt) for _ in range(3)))
    assert hashes(answers[0][0], 100) <= serving.held


async def test_under_eviction_the_usable_prefix_is_what_the_engine_then_uses(
    serving: Serving,
) -> None:
    prompts = [prompt_of(10 + n, 130 + 16 * n) for n in range(7)]
    usable, used = [], []
    # There and back: the last ones are still there, and the first ones no longer.
    for prompt in [*prompts, *(prompt + prompt_of(7, 9) for prompt in reversed(prompts))]:
        usable.append(usable_prefix(serving.held, prompt[:-1], ChainContext(MODEL), GROUPS))
        used.append((await serving.ask(prompt, num_output_tokens=4))[1])
    assert usable == used
    assert used[7] > 0
    assert used[-1] == 0
    assert serving.pump.counters.num_removed > 0
    counters = serving.pump.counters
    assert (counters.num_left_out, counters.num_malformed, counters.num_gaps) == (0, 0, 0)
