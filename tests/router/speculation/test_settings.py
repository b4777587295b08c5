"""The section of the configuration."""

from typing import Any

import pytest
from pydantic import ValidationError

from router.speculation.settings import SpeculationSection


def test_nobody_drafts_unless_told_to() -> None:
    assert not SpeculationSection().is_on
    assert SpeculationSection(drafters=("prompt_lookup",)).is_on
    assert SpeculationSection(engine={"method": "ngram"}).is_on


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"drafters": ("prompt_lookup",), "engine": {"method": "ngram"}}, "both given"),
        ({"drafters": ("prompt_lookup", "prompt_lookup")}, "named once"),
        ({"drafters": ("oracle",)}, "prompt_lookup"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"max_tokens": 65}, "less than or equal to 64"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SpeculationSection(**given)
