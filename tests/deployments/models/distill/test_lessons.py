import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deployments.models.distill.builders import answer

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    step_tokens=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_an_epoch_has_every_answer_once_in_steps_of_a_size(
    lengths: list[int], step_tokens: int, seed: int
) -> None:
    from deployments.models.distill.lessons import plan_epoch  # noqa: PLC0415 - takes seconds

    steps = plan_epoch(lengths, step_tokens, seed)
    assert sorted(number for step in steps for number in step) == list(range(len(lengths)))
    for step in steps:
        padded = len(step) * max(lengths[number] for number in step)
        assert len(step) == 1 or padded <= step_tokens
    assert steps == plan_epoch(lengths, step_tokens, seed)


def test_a_lesson_has_the_targets_shares_at_the_places_before_what_it_said() -> None:
    from deployments.models.distill.lessons import lesson_of  # noqa: PLC0415 - takes seconds

    id_to_row = np.array([-1, -1, 0, 1, -1])  # tokens 2 and 3 can be said
    answers = [answer([4, 4], [2, 3, 1], others=(0,)), answer([4], [3], others=(2,))]
    lesson = lesson_of(answers, id_to_row)
    assert lesson.tokens.tolist() == [[4, 4, 2, 3], [4, 0, 0, 0]]
    assert lesson.places.tolist() == [1, 2, 3, 4]
    assert lesson.said.tolist() == [0, 1, -1, 1]
    # Of the third nothing can be said; of the last both.
    shares = lesson.shares.numpy().round(2).tolist()
    assert shares == [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.75, 0.25]]
    assert lesson.rows.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]]
