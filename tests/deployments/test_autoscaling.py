"""How many replicas of a deployment are wanted, by how busy those are that there are."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments import metadata_server
from deployments.app import build
from deployments.autoscaling import BUSY, BusySharePolicy, wanted_replicas
from deployments.settings import GatewaySection
from tests.builders.scaling_context import scaling_context


def test_replicas_are_as_many_as_their_work_takes_at_a_share_below_all_their_time() -> None:
    assert wanted_replicas([0.9, 0.8, 0.7], 3, 0.6) == 4
    assert wanted_replicas([0.9, 0.8, 0.7], 3, 0.8) == 3
    assert wanted_replicas([0.6, 0.6], 2, 0.6) == 2
    assert wanted_replicas([0.0, 0.0], 2, 0.6) == 1
    assert wanted_replicas([], 3, 0.6) == 3
    # One of four has told nothing yet.
    assert wanted_replicas([0.9, 0.9, 0.9], 4, 0.6) == 6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_more_work_never_asks_for_fewer(shares: list[float], more: float) -> None:
    busier = [max(share, more) for share in shares]
    few, many = (wanted_replicas(each, len(each), 0.6) for each in (shares, busier))
    assert many >= few >= 1


def test_serves_context_is_read_as_it_is_given() -> None:
    policy = BusySharePolicy(0.6)
    assert policy(scaling_context(2, {BUSY: {"r1": 0.9, "r2": 0.9}, "other": {}})) == (3, {})
    assert policy(scaling_context(2, {})) == (2, {})


def test_gateways_are_scaled_by_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_server, "find", lambda _: None)
    gateway: dict[str, Any] = {
        "num_replicas": 2,
        "max_replicas": 5,
        "autoscaling": {"target_busy_share": 0.7, "upscale_delay_s": 3},
    }
    built = build(
        {
            "models": [{"name": "a", "model": "some/model"}],
            "gateway": gateway,
            "cluster": {"state_dir": str(tmp_path)},
        }
    )
    found = built._bound_deployment._deployment_config.autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (2, 2, 5)
    assert found.upscale_delay_s == 3
    made = found.policy.get_policy()(**found.policy.policy_kwargs)
    assert made(scaling_context(2, {BUSY: {"r1": 1.0, "r2": 0.9}})) == (3, {})


@pytest.mark.parametrize("limits", [{"min_replicas": 3}, {"max_replicas": 1}])
def test_limits_that_exclude_the_number_to_begin_with_are_refused(
    limits: dict[str, int],
) -> None:
    with pytest.raises(ValidationError, match="min_replicas <= num_replicas <= max_replicas"):
        GatewaySection.model_validate({"num_replicas": 2} | limits)
