"""How long a step takes."""

import numpy as np
import pytest

from router.speculation.step_time import StepTime


def seconds(num_sequences: int, num_draft_tokens: int) -> float:
    """Of an engine that needs 10 ms, 1 ms a token and 3 ms for verifying."""
    return 10e-3 + 1e-3 * (num_sequences + num_draft_tokens) + (3e-3 if num_draft_tokens else 0)


def test_it_learns_what_tokens_and_verifying_cost_in_spite_of_noise() -> None:
    times = StepTime(memory_steps=200)
    dice = np.random.default_rng(0)
    for _ in range(500):
        num_sequences = int(dice.integers(1, 9))
        num_draft_tokens = int(dice.integers(0, 3)) * num_sequences
        noise = float(dice.lognormal(0.0, 0.05)) * (20 if dice.random() < 0.01 else 1)
        times.observe(
            num_sequences, num_draft_tokens, noise * seconds(num_sequences, num_draft_tokens)
        )
    with_drafts = times.with_drafts(4)
    for num_draft_tokens in (0, 4, 16):
        expected = seconds(4, num_draft_tokens)
        assert with_drafts(num_draft_tokens) == pytest.approx(expected, rel=0.1)


def test_batches_alone_teach_what_the_tokens_of_drafts_would_cost() -> None:
    times = StepTime(memory_steps=200)
    for step in range(200):
        num_sequences = 1 + step % 8
        times.observe(num_sequences, 0, seconds(num_sequences, 0))
    with_drafts = times.with_drafts(1)
    assert with_drafts(5) - with_drafts(4) == pytest.approx(1e-3, rel=0.1)
