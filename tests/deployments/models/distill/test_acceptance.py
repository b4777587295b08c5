import numpy as np
import pytest

from deployments.models.distill import acceptance
from deployments.models.distill.acceptance import NUM_PROPOSED, measure_acceptance
from tests.deployments.models.distill.builders import answer

ANSWERS = [answer([1, 2, 3], list(range(10, 22))), answer([4], list(range(30, 38)))]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Texts to be continued; what is proposed goes on in steps of one, as both answers do."""
    found: list[list[int]] = []

    def propose(draft: object, texts: list[list[int]], ids: object) -> object:
        found.extend(texts)
        return np.array([[text[-1] + 1 + n for n in range(NUM_PROPOSED)] for text in texts])

    monkeypatch.setattr(acceptance, "_propose", propose)
    return found


def test_every_place_with_so_many_tokens_behind_it_is_asked(asked: list[list[int]]) -> None:
    found = measure_acceptance(None, ANSWERS, np.arange(0), seed=0)
    assert sorted(map(len, asked)) == [1, 3, 4, 5, 6, 7]
    assert found.num_places == 6
    # The first token of an answer does not go on from its prompt.
    assert found.rates[0] == round(4 / 6, 4)


def test_of_beginnings_only_the_first_tokens_count(asked: list[list[int]]) -> None:
    found = measure_acceptance(None, ANSWERS, np.arange(0), 0, num_tokens=NUM_PROPOSED + 1)
    assert sorted(asked) == [[1, 2, 3], [1, 2, 3, 10], [4]]
    assert (found.num_places, found.rates[0]) == (3, round(1 / 3, 4))
