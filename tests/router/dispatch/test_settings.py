"""The section of dispatch."""

import pytest
from pydantic import ValidationError

from router.dispatch.settings import DispatchSection


def test_activated_experts_are_what_is_balanced_unless_said_otherwise() -> None:
    assert DispatchSection().policy == "activated_experts"


@pytest.mark.parametrize("key", ["fixed_s", "per_expert_s", "per_pair_s"])
def test_nothing_is_free_to_begin_with(key: str) -> None:
    # Costs are learnt in relation to these.
    with pytest.raises(ValidationError, match=key):
        DispatchSection.model_validate({key: 0.0})


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="token_balance"):
        DispatchSection.model_validate({"policy": "random"})
