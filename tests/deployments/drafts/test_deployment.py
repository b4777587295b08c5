"""The Serve deployment of draft replicas: what it is made of, and what replaces what."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import app, metadata_server
from deployments.engine.cores import NodeCores, num_ranks_to_share, plan_cores
from deployments.settings import ModelSection
from infra.errors import ConfigError
from tests.builders.bound import bound_deployments

PLAIN = {"name": "plain", "model": "some/model", "device": "cpu"}


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_server, "find", lambda _: None)


def drafted(speculation: dict[str, Any] | None = None, /, **draft: Any) -> dict[str, Any]:
    section = {"drafters": ["draft_model"], "draft": {"model": "some/draft"} | draft}
    return PLAIN | {"name": "drafted", "speculation": section | (speculation or {})}


def test_only_a_model_with_a_draft_model_gets_draft_replicas(tmp_path: Path) -> None:
    assert bound_deployments(tmp_path, PLAIN).keys() == {"gateway", "engine-plain"}
    found = bound_deployments(tmp_path, PLAIN, drafted(num_replicas=3))
    assert found.keys() == {"gateway", "engine-plain", "engine-drafted", "drafts-drafted"}
    scaling = found["drafts-drafted"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (3, 3)
    assert found["engine-plain"].init_args[-1] is None
    replicas = found["engine-drafted"].init_args[-1]._bound_deployment
    assert replicas.name == "drafts-drafted"


def test_what_only_draft_replicas_go_by_replaces_no_engine(tmp_path: Path) -> None:
    def versions(section: dict[str, Any]) -> dict[str, Any]:
        found = bound_deployments(tmp_path, section)
        return {name: each.version for name, each in found.items()}

    before = versions(drafted())
    for name, value in (("ahead_tokens", 4), ("kv_cache_memory_bytes", 1 << 21)):
        after = versions(drafted(**{name: value}))
        assert {each for each in before if after[each] != before[each]} == {"drafts-drafted"}
    assert versions(drafted(num_replicas=4)) == before
    other = versions(drafted({"max_tokens": 3}))
    assert other["engine-drafted"] != before["engine-drafted"]


def test_a_draft_replica_has_the_core_that_engines_leave_to_the_gateway(
    tmp_path: Path,
) -> None:
    sections = [ModelSection.model_validate(each) for each in (PLAIN, drafted(num_replicas=2))]
    assert num_ranks_to_share(sections) == 2
    found = bound_deployments(tmp_path, drafted())
    own = ModelSection.model_validate(found["drafts-drafted"].init_args[0])
    bound = Counter({1: 1, 2: 1, 3: 1})
    assert plan_cores(own, NodeCores(range(4), 1, bound)) == [[0]]
    # A second one computes elsewhere.
    assert plan_cores(own, NodeCores(range(4), 1, bound + Counter({0: 2}))) == [[1]]


def test_draft_replicas_are_scaled_by_how_busy_they_are_between_their_limits(
    tmp_path: Path,
) -> None:
    found = bound_deployments(tmp_path, drafted(num_replicas=2, min_replicas=1, max_replicas=4))
    scaling = found["drafts-drafted"]._deployment_config.autoscaling_config
    limits = (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas)
    assert limits == (1, 2, 4)
    with pytest.raises(ValidationError, match="min_replicas <= num_replicas <= max_replicas"):
        ModelSection.model_validate(drafted(num_replicas=2, max_replicas=1))


def test_draft_replicas_on_gpus_need_the_build_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"drafted\.speculation\.draft: device is cuda"):
        bound_deployments(tmp_path, drafted(device="cuda"))
    monkeypatch.setattr(app, "_built_for", lambda: "cuda")
    [found] = [
        each
        for name, each in bound_deployments(tmp_path, drafted(device="cuda")).items()
        if name == "drafts-drafted"
    ]
    assert found.ray_actor_options["num_gpus"] == 1.0
