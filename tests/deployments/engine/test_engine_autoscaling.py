"""How Serve is told how many engine replicas are wanted."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import metadata_server
from deployments.engine.autoscaling import HELD, START, EngineScalingPolicy
from deployments.settings import ModelSection
from router.scaling.engine_demand import EngineSignals
from router.scaling.settings import EngineScalingSection
from tests.builders.bound import bound_deployments
from tests.builders.scaling_context import scaling_context

MODEL = {"name": "m", "model": "some/model", "device": "cpu", "max_model_len": 256}


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def recorded(num_held: float = 0, start_s: float = 20, **per_replica: list[float]) -> Any:
    """Metrics as Serve has them: of each name, a number by replica."""
    lists = {name: [0.0] * len(per_replica["num_sequences"]) for name in EngineSignals._fields}
    lists |= per_replica
    count = len(lists["num_sequences"])
    lists |= {HELD: [num_held] * count, START: [start_s] * count}
    return {name: {f"r{i}": v for i, v in enumerate(vs)} for name, vs in lists.items()}


def policy(clock: Clock | None = None, **targets: Any) -> EngineScalingPolicy:
    section = EngineScalingSection(**({"look_ahead": False} | targets))
    return EngineScalingPolicy(10, section.model_dump(mode="json"), clock or Clock())


def test_sequences_of_all_replicas_count_and_those_held_once() -> None:
    made = policy(target_occupancy=0.5)
    # 9 + 6 in them and 4 at gateways, of which both were told, at 5 each.
    found = recorded(num_sequences=[9.0, 6.0], num_held=4)
    assert made(scaling_context(2, found)) == (4, {})


def test_a_replica_that_has_told_one_metric_only_counts_with_that() -> None:
    found = recorded(num_sequences=[7.0, 7.0])
    found["kv_usage"] = {"r0": 0.9}
    assert policy()(scaling_context(2, found)) == (2, {})


def test_without_a_replica_calls_that_wait_for_one_bring_it() -> None:
    made = policy()
    assert made(scaling_context(0, {}))[0] == 0
    assert made(scaling_context(0, {}, num_queued=1))[0] == 1


def test_calls_that_wait_count_for_nothing_where_there_is_a_replica() -> None:
    found = recorded(num_sequences=[0.0])
    assert policy()(scaling_context(1, found, num_queued=3))[0] == 0


def test_it_looks_ahead_as_far_as_replicas_have_taken_to_start() -> None:
    wanted = {}
    for start_s in (1.0, 40.0):
        clock = Clock()
        made = policy(clock, look_ahead=True)
        for clock.now_s in range(6):
            found = recorded(num_sequences=[3 + 0.3 * clock.now_s], start_s=start_s)
            wanted[start_s] = made(scaling_context(1, found))[0]
    assert wanted == {1.0: 1, 40.0: 2}


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_server, "find", lambda _: None)


@pytest.mark.usefixtures("no_index")
def test_serve_gets_the_limits_the_delays_and_the_policy(tmp_path: Path) -> None:
    scaling = {"target_occupancy": 0.5, "upscale_delay_s": 1, "downscale_to_zero_delay_s": 7}
    model = MODEL | {"min_replicas": 0, "max_replicas": 3, "autoscaling": scaling}
    engine = bound_deployments(tmp_path, model | {"max_num_seqs": 8})["engine-m"]
    found = engine._deployment_config.autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (0, 1, 3)
    assert (found.upscale_delay_s, found.downscale_to_zero_delay_s) == (1, 7)
    made = found.policy.get_policy()(**found.policy.policy_kwargs)
    assert made(scaling_context(1, recorded(num_sequences=[8.0]))) == (2, {})


@pytest.mark.usefixtures("no_index")
def test_scaling_replaces_no_engine(tmp_path: Path) -> None:
    def version(**changes: Any) -> str:
        gpu = MODEL | {"device": "cuda"}
        found: str = bound_deployments(tmp_path, gpu | changes)["engine-m"].version
        return found

    before = version()
    assert version(min_replicas=0, max_replicas=4) == before
    assert version(autoscaling={"look_ahead": False}) == before


def test_without_engines_the_longest_prompt_must_be_known() -> None:
    with pytest.raises(ValidationError, match="set max_model_len"):
        ModelSection(name="m", model="some/model", min_replicas=0)
    assert ModelSection.model_validate(MODEL | {"min_replicas": 0}).scales_to_zero
