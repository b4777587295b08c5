"""The section of the configuration."""

from typing import Any

import pytest
from pydantic import ValidationError

from router.speculation.settings import SpeculationSection


def test_nobody_drafts_unless_told_to() -> None:
    assert not SpeculationSection().is_on
    assert SpeculationSection(drafters=("prompt_lookup",)).is_on
    assert SpeculationSection(engine={"method": "ngram"}).is_on


def test_draft_replicas_are_asked_where_their_drafts_are_named() -> None:
    asked = SpeculationSection.model_validate(
        {"drafters": ["draft_model", "prompt_lookup"], "draft": {"model": "small"}}
    )
    assert (asked.is_on, asked.has_draft_tier) == (True, True)
    assert not SpeculationSection(drafters=("prompt_lookup",)).has_draft_tier
    assert SpeculationSection.model_validate(asked.model_dump(mode="json")) == asked


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"drafters": ("prompt_lookup",), "engine": {"method": "ngram"}}, "both given"),
        ({"drafters": ("prompt_lookup", "prompt_lookup")}, "named once"),
        ({"drafters": ("oracle",)}, "prompt_lookup"),
        ({"drafters": ("draft_model",)}, "draft.model does not say which; name a small model"),
        ({"draft": {"model": "m"}}, "draft.model is given; add draft_model to drafters"),
        ({"draft": {"model": "m"}, "engine": {"method": "ngram"}}, "add draft_model"),
        ({"draft": {"num_replicas": 0}}, "num_replicas"),
        ({"draft": {"context_tokens": 63}}, "greater than or equal to 64"),
        ({"draft": {"ahead_tokens": 65}}, "less than or equal to 64"),
        ({"draft": {"ahead_tokens": -1}}, "greater than or equal to 0"),
        ({"draft": {"kv_cache_memory_bytes": 1000}}, "kv_cache_memory_bytes"),
        ({"draft": {"num_threads": 0}}, "num_threads"),
        ({"draft": {"modle": "m"}}, "modle"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"max_tokens": 65}, "less than or equal to 64"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SpeculationSection(**given)
