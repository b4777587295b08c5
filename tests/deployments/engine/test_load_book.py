"""What an engine replica tells its gateways of its load."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine import load_book
from deployments.engine.load_book import EngineStats, LoadBook, no_stats
from deployments.types import Call, Pooling, Sampling
from router.charge import Charge
from router.types import KvRoom, Load, LoadReport


def call(num_prompt_tokens: int = 10, n: int = 1, adapter: str | None = None) -> Call:
    return Call("r", [1] * num_prompt_tokens, Sampling(n=n), adapter=adapter)


async def until(reports: list[LoadReport], num: int) -> None:
    async with asyncio.timeout(5):
        while len(reports) < num:
            await asyncio.sleep(0.005)


async def test_a_gateway_that_joins_is_told_at_once_what_others_have() -> None:
    book = LoadBook(lambda: EngineStats(2, 1, KvRoom(50, 80)))
    first: list[LoadReport] = []
    book.begin(book.join(first.append), call(10, n=2, adapter="x"), 7)
    second: list[LoadReport] = []
    book.join(second.append)
    load = Load(7, 2, 10)
    assert first == [LoadReport(kv=KvRoom(80, 80), num_running=2, num_waiting=1)]
    assert second == [
        LoadReport(load, Load(), KvRoom(50, 80), adapters=("x",), num_running=2, num_waiting=1)
    ]
    book.check_invariants()


async def test_each_gateway_gets_its_own_part_beside_the_total() -> None:
    book = LoadBook(no_stats)
    reports: tuple[list[LoadReport], ...] = ([], [])
    parts = [book.join(reports[n].append) for n in range(2)]
    charges = [book.begin(parts[n], call(), 5 + n) for n in range(2)]
    for n in range(2):
        await until(reports[n], 2)
    assert [(r[-1].total, r[-1].own) for r in reports] == [
        (Load(11, 2, 20), Load(5, 1, 10)),
        (Load(11, 2, 20), Load(6, 1, 10)),
    ]
    for charge in charges:
        book.end(charge)
    await until(reports[0], 3)
    assert (reports[0][-1].total, reports[0][-1].own) == (Load(), Load())
    book.check_invariants()


async def test_many_changes_make_few_reports_and_the_last_one_is_told() -> None:
    book = LoadBook(no_stats)
    reports: list[LoadReport] = []
    part = book.join(reports.append)
    for _ in range(1000):
        book.end(book.begin(part, call(), 1))
    charge = book.begin(part, call(), 1)
    await until(reports, 2)
    assert len(reports) == 2
    assert reports[-1].total == charge.load


async def test_without_news_it_is_told_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_book, "MAX_REPORT_S", 0.02)
    book = LoadBook(no_stats)
    reports: list[LoadReport] = []
    book.join(reports.append)
    await until(reports, 4)
    assert reports == [LoadReport()] * len(reports)


async def test_nothing_is_told_once_the_last_link_has_gone() -> None:
    book = LoadBook(no_stats)
    reports: list[LoadReport] = []
    send = reports.append
    charge = book.begin(book.join(send), call(), 1)
    book.leave(send)
    book.end(charge)
    await asyncio.sleep(0.06)
    assert len(reports) == 1
    book.check_invariants()


async def test_an_engine_without_calls_has_all_its_cache_free_whatever_it_said_last() -> None:
    book = LoadBook(lambda: EngineStats(kv=KvRoom(1, 100)))
    reports: list[LoadReport] = []
    book.join(reports.append)
    assert reports[0].kv == KvRoom(100, 100)


async def test_an_embedding_decodes_nothing() -> None:
    book = LoadBook(no_stats)
    charge = book.begin(
        book.join(lambda _: None), Call("r", [1], Sampling(), pooling=Pooling()), 1
    )
    assert charge.load == Load(1, 0, 1)


@given(st.lists(st.tuples(st.sampled_from("jblodde"), st.integers(0, 3)), max_size=40))
def test_whatever_comes_and_goes_the_parts_make_the_total(
    steps: list[tuple[str, int]],
) -> None:
    """j: a link comes, l: goes, b: a call begins, o, d: an output, e: a call ends."""

    async def run() -> None:
        book = LoadBook(no_stats)
        links = [lambda _, n=n: None for n in range(4)]
        parts = {n: book.join(links[n]) for n in range(2)}
        charges: list[Charge] = []
        for action, number in steps:
            if action == "j" and number not in parts:
                parts[number] = book.join(links[number])
            elif action == "l" and number in parts:
                book.leave(links[number])
                del parts[number]
            elif action == "b" and number in parts:
                charges.append(book.begin(parts[number], call(number + 1, n=2), number))
            elif charges and action in "od":
                charges[number % len(charges)].on_output(number, 2, is_finished=action == "d")
            elif charges and action == "e":
                book.end(charges.pop(number % len(charges)))
            book.check_invariants()
        for number in parts:
            book.leave(links[number])

    asyncio.run(run())
