"""The engine's end of speculation, asked as vLLM asks it."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.drafts.in_engine import cpu_sampling
from deployments.drafts.in_engine import proposer as proposer_module
from deployments.drafts.in_engine.proposer import Proposer
from deployments.drafts.speculation_config import speculation_arguments
from deployments.engine.plan import with_arguments
from router.speculation.settings import SpeculationSection
from tests.router.speculation.engines_with_sources import Clock, Source, knows_nothing

MAX_MODEL_LEN = 64


def config(**settings: Any) -> SimpleNamespace:
    """What there is in vLLM's configuration."""
    section = SpeculationSection.model_validate({"drafters": ["prompt_lookup"], **settings})
    return SimpleNamespace(
        additional_config=speculation_arguments(section)["additional_config"],
        model_config=SimpleNamespace(max_model_len=MAX_MODEL_LEN),
    )


class Batch:
    """Rows of tokens, as a runner has them."""

    def __init__(self, proposer: Proposer, *rows: list[int]) -> None:
        self._proposer = proposer
        self._tokens = np.zeros((len(rows), MAX_MODEL_LEN), np.int32)
        self._lengths = np.zeros(len(rows), np.int32)
        for number, row in enumerate(rows):
            self._tokens[number, : len(row)] = row
            self._lengths[number] = len(row)

    def propose(self, *sampled: Sequence[int]) -> list[list[int]]:
        """After a step that has said these."""
        for number, new in enumerate(sampled):
            end = self._lengths[number] + len(new)
            self._tokens[number, self._lengths[number] : end] = new
            self._lengths[number] = end
        return self._proposer.propose(
            [list(new) for new in sampled], self._lengths, self._tokens, slot_mappings=None
        )


def test_each_row_gets_its_draft_and_a_prompt_half_read_gets_none() -> None:
    proposer = Proposer(config(length="fixed", max_tokens=3))
    batch = Batch(proposer, [1, 2, 3, 4, 1], [5, 6, 7], [8, 9, 8, 9])
    assert batch.propose([2], [], [8]) == [[3, 4, 1], [], [9, 8, 9]]
    assert batch.propose([3], [5], []) == [[4, 1, 2], [], []]


def test_what_verifies_drafts_is_mended_before_any_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mended = []
    monkeypatch.setattr(cpu_sampling, "mend", lambda: mended.append(True))
    Proposer(config()).load_model(object())
    assert mended == [True]


def test_no_draft_goes_over_the_models_longest_sequence() -> None:
    proposer = Proposer(config(length="fixed", max_tokens=8))
    batch = Batch(proposer, [1, 2] * 30)
    assert batch.propose([1]) == [[2, 1]]
    assert batch.propose([2, 1]) == [[]]


def test_a_drafter_that_fails_costs_drafts_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposer = Proposer(config(length="fixed"))
    batch = Batch(proposer, [1, 2, 1])
    assert batch.propose([2]) == [[1, 2, 1, 2, 1, 2, 1, 2]]

    def fail(*given: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(proposer._speculator, "propose", fail)
    with caplog.at_level(logging.ERROR):
        assert batch.propose([1]) == [[]]
    assert "speculation ends here" in caplog.text
    monkeypatch.undo()
    assert batch.propose([2]) == [[]]


def test_a_step_that_reads_prompts_alone_asks_no_replica_and_the_next_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source(Clock(), knows_nothing)
    source.token_s = 1e-3
    monkeypatch.setattr(proposer_module, "open_source", lambda *given: source)
    settings = {"drafters": ["draft_model"], "draft": {"model": "small"}, "max_tokens": 2}
    made = config(**settings)
    made.model_config.model = "large"
    batch = Batch(Proposer(made), [1, 2, 3], [4, 5])
    assert batch.propose([], []) == [[], []]
    assert source.told == []
    batch.propose([7], [])
    assert [[row.tokens.tolist() for row in rows] for rows in source.told] == [[[1, 2, 3, 7]]]


def test_vllm_is_told_of_our_drafters_or_of_its_own_and_of_none() -> None:
    assert speculation_arguments(SpeculationSection()) == {}
    engine = {"method": "ngram", "num_speculative_tokens": 3}
    assert speculation_arguments(SpeculationSection(engine=engine)) == {
        "speculative_config": engine
    }
    ours = speculation_arguments(SpeculationSection(drafters=("prompt_lookup",), max_tokens=5))
    assert ours["speculative_config"] == {
        "method": "custom_class",
        "model": f"{Proposer.__module__}.{Proposer.__qualname__}",
        "num_speculative_tokens": 5,
    }


def test_what_others_say_in_the_additional_config_stays() -> None:
    ours = speculation_arguments(SpeculationSection(drafters=("prompt_lookup",)))
    theirs = {"dtype": "auto", "additional_config": {"theirs": {"a": 1}}}
    joined = with_arguments(theirs, ours)
    assert joined["additional_config"] == {"theirs": {"a": 1}, **ours["additional_config"]}
    assert joined["dtype"] == "auto"
    assert with_arguments({"a": 1}, {}) == {"a": 1}
