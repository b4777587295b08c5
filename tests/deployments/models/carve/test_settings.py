import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.carve.settings import CarveSettings, Cut, cut_of
from infra.errors import ConfigError


def test_a_third_of_smollm2s_neurons_are_shared_and_the_others_make_16_experts_of_64() -> None:
    cut = cut_of(CarveSettings(), 1536)
    assert cut == Cut(shared_size=512, num_experts=16, expert_size=64, num_active=12)
    assert (cut.num_neurons, cut.num_active_neurons) == (1536, 1280)


@given(
    num_neurons=st.integers(1, 60), num_experts=st.integers(2, 8), shared=st.integers(-2, 70)
)
def test_a_cut_has_a_place_for_every_neuron_and_a_refusal_names_one_that_does(
    num_neurons: int, num_experts: int, shared: int
) -> None:
    settings = CarveSettings(num_experts=num_experts, num_active=1, shared_size=shared)
    try:
        cut = cut_of(settings, num_neurons)
    except ConfigError as error:
        if "would do" in error.message:
            nearest = int(error.message.split("shared expert of ")[-1].split()[0])
            again = CarveSettings(num_experts=num_experts, num_active=1, shared_size=nearest)
            assert cut_of(again, num_neurons).num_neurons == num_neurons
    else:
        assert (cut.num_neurons, cut.shared_size) == (num_neurons, shared)
        assert cut.expert_size >= 1


@given(num_neurons=st.integers(3, 5000), num_experts=st.integers(2, 64))
def test_the_usual_share_is_as_near_to_a_third_as_equal_experts_allow(
    num_neurons: int, num_experts: int
) -> None:
    possible = range(num_neurons - num_experts, 0, -num_experts)
    settings = CarveSettings(num_experts=num_experts, num_active=1)
    if not possible:
        with pytest.raises(ConfigError):
            cut_of(settings, num_neurons)
        return
    nearest = min(abs(size - num_neurons / 3) for size in possible)
    found = cut_of(settings, num_neurons).shared_size
    assert abs(found - num_neurons / 3) == pytest.approx(nearest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 1, "num_active": 1}, "take 2 or more"),
        ({"num_active": 17}, "take 1 to 16"),
        ({"num_active": 0}, "take 1 to 16"),
        ({"shared_size": 500}, "a shared expert of 496 would do"),
        ({"shared_size": 0}, "take 1 to 1520"),
        ({"shared_size": 1530}, "take 1 to 1520"),
        ({"num_experts": 4000, "num_active": 4}, "fewer experts"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    changes: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        cut_of(CarveSettings(**changes), 1536)  # type: ignore[arg-type]
