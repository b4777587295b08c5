"""By which ways an output goes on."""

import pytest

from router.resume import SamplingTraits, Way, ways

GREEDY = SamplingTraits(is_greedy=True, is_seeded=False)
SEEDED = SamplingTraits(is_greedy=False, is_seeded=True)
SAMPLED = SamplingTraits(is_greedy=False, is_seeded=False)


@pytest.mark.parametrize("is_greedy", [True, False])
@pytest.mark.parametrize("is_seeded", [True, False])
@pytest.mark.parametrize("remembered", [(), ("bad_words",)])
def test_what_has_not_begun_begins_anew(
    is_greedy: bool, is_seeded: bool, remembered: tuple[str, ...]
) -> None:
    assert ways(SamplingTraits(is_greedy, is_seeded, remembered), 0) == ("restart",)


@pytest.mark.parametrize(
    ("traits", "found"),
    [
        (GREEDY, ("continue", "replay")),
        (SamplingTraits(True, True), ("continue", "replay")),
        (SEEDED, ("replay",)),
        (SAMPLED, ("continue",)),
        (SamplingTraits(True, False, ("frequency_penalty",)), ("replay",)),
        (SamplingTraits(False, True, ("structured_output",)), ("replay",)),
        (SamplingTraits(False, False, ("presence_penalty",)), ()),
    ],
)
def test_a_begun_output_goes_on_only_where_it_is_exact(
    traits: SamplingTraits, found: tuple[Way, ...]
) -> None:
    assert ways(traits, 3) == found
