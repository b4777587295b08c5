"""How rounds alternate paths, and what rows say, with paths that only count."""

from collections.abc import AsyncIterator
from itertools import chain

from tests.bench.rounds import Load, Row, Stream, compare, prompts


def counting(calls: list[tuple[str, tuple[int, ...]]], path: str) -> Stream:
    async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
        calls.append((path, tuple(prompt)))
        yield 1
        yield num_tokens - 1

    return stream


async def rows_of(load: Load, calls: list[tuple[str, tuple[int, ...]]]) -> list[Row]:
    paths = {name: counting(calls, name) for name in ("direct", "a", "b")}
    return [row async for row in compare(paths, load)]


async def test_there_is_a_row_for_each_level_and_each_path_but_the_base() -> None:
    load = Load(levels=[1, 4], num_rounds=1, num_prompt_tokens=4, num_output_tokens=3)
    rows = await rows_of(load, [])
    found = [(row.concurrency, row.path) for row in rows]
    assert found == [(1, "a"), (1, "b"), (4, "a"), (4, "b")]
    assert all(row.ratio_min <= row.throughput_ratio <= row.ratio_max for row in rows)


async def test_each_path_begins_a_round_in_its_turn() -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []
    await rows_of(Load([4], num_rounds=2, num_prompt_tokens=4, num_output_tokens=3), calls)
    order = [path for path, _ in calls[::4]]
    assert order == ["direct", "a", "b", "a", "b", "direct", "b", "direct", "a"]


async def test_no_prompt_is_sent_twice_at_a_level() -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []
    await rows_of(Load([32], num_rounds=5, num_prompt_tokens=4, num_output_tokens=3), calls)
    sent = [prompt for _, prompt in calls]
    assert len(set(sent)) == len(sent) == 3 * 6 * 32


def test_prompts_have_the_length_asked_for_and_tokens_of_the_vocabulary() -> None:
    found = prompts(3, 64, salt=5300)
    assert [len(prompt) for prompt in found] == [64] * 3
    assert all(1000 <= token < 41000 for token in chain(*found))
