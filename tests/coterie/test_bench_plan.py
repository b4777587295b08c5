"""Which requests a load sends: lengths, prompts, traces, arrivals."""

import json
import random
import statistics
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.benchmark import plan
from coterie.benchmark.plan import Lengths
from coterie.benchmark.prompts import BLOCK_TOKENS, WORDS, Given, ask_of, made_up, read_prompts
from coterie.benchmark.trace import TraceRequest, read_trace
from coterie.benchmark.types import Ask, PlannedRequest
from coterie.errors import ConfigError

MOONCAKE = [
    {"timestamp": 3000, "input_length": 1200, "output_length": 5, "hash_ids": [7, 8, 9]},
    {"timestamp": 1000, "input_length": 10, "output_length": 0},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,480,10
2023-11-16 18:17:05.2299600,31,8
"""


def mix(seed: int, count: int = 50) -> list[PlannedRequest]:
    return list(islice(plan.planned_mix(Lengths(2, 4), Lengths(1, 3), seed), count))


def mooncake_file(folder: Path, rows: Iterable[object] = MOONCAKE) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_mix_draws_every_length_of_its_ranges_and_no_other() -> None:
    assert {request.num_prompt_tokens for request in mix(0)} == {2, 3, 4}
    assert {request.max_tokens for request in mix(0)} == {1, 2, 3}


def test_a_mix_is_the_same_for_the_same_seed_alone() -> None:
    assert mix(1) == mix(1)
    assert mix(1) != mix(2)


def test_the_gaps_of_a_poisson_process_are_exponential() -> None:
    gaps_s = list(islice(plan.exponential_gaps_s(4.0, random.Random(0)), 20_000))
    assert statistics.fmean(gaps_s) == pytest.approx(0.25, rel=0.03)
    # What only the exponential has: its deviation is its mean.
    assert statistics.stdev(gaps_s) == pytest.approx(0.25, rel=0.03)


def test_arrivals_at_a_rate_ascend_and_keep_the_requests() -> None:
    arriving = list(plan.at_rate(mix(0, 9), 10.0, seed=3))
    times_s = [request.at_s for request in arriving if request.at_s is not None]
    assert times_s == sorted(times_s)
    assert len(times_s) == 9
    assert list(plan.one_after_another(arriving)) == mix(0, 9)


def test_prompts_come_in_order_and_again() -> None:
    prompts = [Given("a"), Given("b", max_tokens=9)]
    planned = islice(plan.planned_prompts(prompts, Lengths(5, 5), 0), 3)
    assert [(p.prompt, p.max_tokens) for p in planned] == [("a", 5), ("b", 9), ("a", 5)]


def test_a_warm_up_shares_no_made_up_prompt_with_what_is_measured() -> None:
    blocks = PlannedRequest(0, 1, num_prompt_tokens=600, prefix_blocks=(1,), at_s=2.0)
    (warmup,) = plan.as_warmup([blocks])
    assert warmup == PlannedRequest(-1, 1, num_prompt_tokens=600)
    assert made_up(warmup, 100, seed=0)[:8] != made_up(blocks, 100, seed=0)[:8]


@given(
    num_tokens=st.integers(1, 2 * BLOCK_TOKENS + 3),
    blocks=st.lists(st.integers(0, 1), max_size=3),
    other=st.lists(st.integers(0, 1), max_size=3),
)
def test_made_up_prompts_share_exactly_the_blocks_that_lead_both(
    num_tokens: int, blocks: list[int], other: list[int]
) -> None:
    first = PlannedRequest(0, 1, num_prompt_tokens=num_tokens, prefix_blocks=tuple(blocks))
    second = PlannedRequest(1, 1, num_prompt_tokens=num_tokens, prefix_blocks=tuple(other))
    left, right = (made_up(request, 1_000_000, seed=0) for request in (first, second))
    assert len(left) == len(right) == num_tokens
    # The slow twin: block by block, as far as whole ones fit.
    num_shared = 0
    for mine, theirs in zip(blocks, other, strict=False):
        if mine != theirs or num_shared + BLOCK_TOKENS > num_tokens:
            break
        num_shared += BLOCK_TOKENS
    assert left[:num_shared] == right[:num_shared]
    assert left[num_shared : num_shared + 4] != right[num_shared : num_shared + 4] or (
        num_shared == num_tokens
    )


def test_a_made_up_prompt_is_token_ids_or_words_of_the_alphabet() -> None:
    request = PlannedRequest(0, 5, num_prompt_tokens=4)
    ids = ask_of(request, (70, 80), seed=0)
    assert ids.max_tokens == 5
    assert len(ids.prompt) == 4
    assert set(ids.prompt) <= {70, 80}
    words = ask_of(request, WORDS, seed=0)
    assert isinstance(words.prompt, str)
    assert len(words.prompt.split(" ")) == 4


def test_a_given_prompt_is_sent_as_it_is() -> None:
    request = PlannedRequest(0, 5, prompt="Why?  ")
    assert ask_of(request, WORDS, seed=0) == Ask("Why?  ", 5)


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\r\n\ntwo\u2028still two\n", encoding="utf-8")
    assert read_prompts(path) == [Given("one"), Given("two\u2028still two")]


def test_a_jsonl_file_has_an_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\\nb", "max_tokens": 3}\n{"prompt": "c"}\n')
    assert read_prompts(path) == [Given("a\nb", 3), Given("c")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("no json", "2 is no JSON"),
        ("[1]", "2 must be an object"),
        ('{"prompt": 3}', "2 must be an object"),
        ('{"prompt": "a", "max_tokens": 0}', "2: max_tokens must be"),
        ('{"prompt": "a", "max_tokens": true}', "2: max_tokens must be"),
    ],
)
def test_a_wrong_line_of_prompts_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match=complaint):
        read_prompts(path)


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n \n")
    with pytest.raises(ConfigError, match="has no prompts"):
        read_prompts(path)


def test_a_mooncake_trace_is_read_by_arrival_from_0(tmp_path: Path) -> None:
    assert read_trace(mooncake_file(tmp_path)) == [
        TraceRequest(0.0, 10, 1),
        TraceRequest(2.0, 1200, 5, (7, 8, 9)),
    ]


def test_an_azure_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    first, second = read_trace(path)
    assert first == TraceRequest(0.0, 480, 10)
    assert second.at_s == pytest.approx(1.25, abs=1e-5)


def test_a_trace_is_replayed_faster(tmp_path: Path) -> None:
    planned = plan.planned_trace(read_trace(mooncake_file(tmp_path)), speed=4.0)
    assert [request.at_s for request in planned] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("t.txt", "", "a trace is a .jsonl or a .csv file"),
        ("t.jsonl", "", "has no requests"),
        ("t.jsonl", '{"timestamp": 1}', "no trace of a known form: KeyError"),
        ("t.jsonl", "[]", "no trace of a known form: TypeError"),
        ("t.csv", "A,B\n1,2\n", "no trace of a known form: KeyError"),
        ("t.csv", AZURE.replace("480", "x"), "no trace of a known form: ValueError"),
    ],
)
def test_what_is_no_trace_is_refused(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_trace(path)
