"""When an engine has drafts made elsewhere, and which of them it verifies."""

from collections.abc import Sequence

import numpy as np
import pytest

from router.speculation.prompt_lookup import PromptLookup
from router.speculation.settings import SpeculationSection
from router.speculation.speculator import Row, Speculator
from router.speculation.types import TokenIds
from tests.router.speculation.engines_with_sources import (
    FIXED_S,
    TOKEN_S,
    Clock,
    Source,
    engine_with,
    knows,
    knows_nothing,
    random_texts,
)
from tests.router.speculation.test_speculator import Constant, repetitive

OFF_PACE = 1 / (FIXED_S + TOKEN_S)
"""Tokens a second of one sequence without drafts."""


def tokens(*token_ids: int) -> TokenIds:
    return np.array(token_ids, np.int32)


def test_a_good_source_is_asked_nearly_always() -> None:
    engine, source = engine_with(texts=random_texts(1), latency_s=1e-3)
    engine.pace(1000)
    before = len(source.told)
    assert engine.pace(4000) > 6 * OFF_PACE
    assert len(source.told) - before > 0.95 * 4000


@pytest.mark.parametrize("num_sequences", [1, 6])
def test_a_source_that_slows_steps_by_more_than_it_brings_costs_next_to_nothing(
    num_sequences: int,
) -> None:
    texts = random_texts(num_sequences, 8000)

    def one(told: TokenIds) -> Sequence[int]:
        return [*knows(texts)(told)[:1], 7, 7]

    engine, source = engine_with(texts=texts, continues=one, slows_by_s=2 * FIXED_S)
    off = num_sequences / (FIXED_S + TOKEN_S * num_sequences)
    assert engine.pace(1000) > 0.85 * off
    before = len(source.told)
    assert engine.pace(5000) > 0.97 * off
    assert len(source.told) - before < 0.05 * 5000


def test_a_source_that_is_always_late_costs_next_to_nothing() -> None:
    engine, _ = engine_with(texts=random_texts(1, 8000), latency_s=1.0)
    assert engine.pace(1000) > 0.85 * OFF_PACE
    assert engine.pace(5000) > 0.97 * OFF_PACE


def test_a_source_that_is_never_right_costs_next_to_nothing() -> None:
    engine, _ = engine_with(
        texts=random_texts(1, 8000), continues=knows_nothing, latency_s=0.3 * FIXED_S
    )
    engine.pace(1000)
    assert engine.pace(5000) > 0.97 * OFF_PACE


def test_a_late_source_does_not_keep_drafters_from_drafting() -> None:
    late, _ = engine_with(PromptLookup(), texts=[repetitive(60_000)], latency_s=1.0)
    late.pace(1000)
    assert late.pace(3000) > 6 * OFF_PACE


def test_a_source_whose_drafts_have_become_good_is_waited_for_again() -> None:
    texts = random_texts(1, 60_000)
    engine, source = engine_with(texts=texts, continues=knows_nothing, latency_s=0.5 * FIXED_S)
    engine.pace(2000)
    source.continues = knows(texts)
    engine.pace(4000)
    assert engine.pace(2000) > 3 * OFF_PACE


def test_what_is_told_in_one_step_is_asked_for_in_the_same() -> None:
    engine, source = engine_with(PromptLookup(), texts=random_texts(3, 4000))
    for _ in range(500):
        engine.step()
        assert len(source.told) == len(source.patience_s)


def test_each_step_tells_what_all_sequences_have_said() -> None:
    engine, source = engine_with(texts=random_texts(3), length="fixed")
    for _ in range(5):
        engine.step()
        (first, second, third) = source.told[-1]
        for row, text, length in zip(
            (first, second, third), engine.texts, engine.lengths, strict=True
        ):
            assert row.tokens.tolist() == text[:length].tolist()
            assert row.max_tokens == 8
    numbers = [[row.sequence for row in rows] for rows in source.told]
    assert numbers == [[1, 2, 3]] * 5


def test_a_draft_of_fixed_length_is_always_asked_for_and_all_of_it_taken() -> None:
    texts = random_texts(1, 9000)
    engine, source = engine_with(
        texts=texts, continues=knows_nothing, slows_by_s=1.0, length="fixed"
    )
    for _ in range(300):
        engine.step()
        assert engine.drafts == [[7] * 8]
    assert len(source.told) == 300
    assert {terms.least for terms in source.terms} == {0.0}


@pytest.mark.parametrize("latency_s", [1e-3, 0.9 * FIXED_S])
def test_a_source_is_waited_for_as_long_as_its_drafts_are_worth(latency_s: float) -> None:
    engine, source = engine_with(texts=random_texts(1), latency_s=latency_s)
    engine.pace(1000)
    assert source.patience_s[-1] == pytest.approx(8 * (FIXED_S + TOKEN_S), rel=0.3)
    assert 0.02 <= source.terms[-1].least <= 0.9


def test_of_drafter_and_source_each_sequence_takes_who_is_right_about_it() -> None:
    texts = [[0] + [1] * 40_000, random_texts(2, 40_000)[1]]
    both, _ = engine_with(
        Constant(1, 1, 1, 1, 1, 1, 1, 1),
        texts=texts,
        continues=lambda told: knows(texts)(told) if told[0] else knows_nothing(told),
    )
    both.pace(1000)
    assert both.pace(1000) > 6 * 2 / (FIXED_S + 2 * TOKEN_S)
    while not all(both.drafts):
        both.step()
    assert set(both.drafts[0]) == {1}
    assert list(both.drafts[1]) == texts[1][both.lengths[1] :][: len(both.drafts[1])]


def test_a_step_that_has_brought_no_tokens_asks_for_no_drafts() -> None:
    source = Source(Clock(), knows_nothing)
    speculator = Speculator(SpeculationSection(), (), source)
    assert speculator.propose([], None) == []
    speculator.check_invariants()
    assert source.told == []
    speculator.propose([Row(0, tokens(1, 2), 1, 9)], None)
    assert len(source.told) == 1


def test_a_draft_of_a_source_ends_where_the_sequence_has_to() -> None:
    section = SpeculationSection(length="fixed", max_tokens=4)
    speculator = Speculator(section, (), Source(Clock(), knows_nothing))
    assert speculator.propose([Row(0, tokens(1, 2), 1, 9)], None) == [[7, 7, 7, 7]]
    assert speculator.propose([Row(0, tokens(1, 2, 7, 7), 2, 2)], None) == [[7, 7]]
    assert speculator.propose([Row(0, tokens(1, 2, 7, 7, 7), 1, 0)], None) == [()]
