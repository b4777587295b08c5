import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.distill.settings import (
    DistillSettings,
    check_vocabulary,
    layers_of,
)
from infra.errors import ConfigError


@given(num_layers=st.integers(1, 12), num_target_layers=st.integers(1, 40))
def test_a_draft_has_different_layers_of_the_target_or_is_refused(
    num_layers: int, num_target_layers: int
) -> None:
    settings = DistillSettings(num_layers=num_layers)
    if num_layers > num_target_layers:
        with pytest.raises(ConfigError, match=f"take 1 to {num_target_layers}"):
            layers_of(settings, num_target_layers)
        return
    layers = layers_of(settings, num_target_layers)
    assert len(layers) == len(set(layers)) == num_layers
    assert layers == tuple(sorted(layers))
    assert 0 <= layers[0] <= layers[-1] < num_target_layers


def test_a_draft_of_no_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="take 1 to 30"):
        layers_of(DistillSettings(num_layers=0), 30)


def test_layers_may_be_named() -> None:
    assert layers_of(DistillSettings(layers=(0, 7)), 8) == (0, 7)


@pytest.mark.parametrize("layers", [(), (1, 1), (2, 1), (-1, 2), (3, 8)])
def test_layers_that_are_not_the_targets_in_order_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        layers_of(DistillSettings(layers=layers), 8)


@pytest.mark.parametrize(("vocabulary", "is_possible"), [(0, True), (9, True), (10, False)])
def test_a_vocabulary_is_no_larger_than_the_targets(vocabulary: int, is_possible: bool) -> None:
    settings = DistillSettings(vocabulary=vocabulary)
    if is_possible:
        check_vocabulary(settings, 9)
    else:
        with pytest.raises(ConfigError, match="take 1 to 9, or 0"):
            check_vocabulary(settings, 9)
