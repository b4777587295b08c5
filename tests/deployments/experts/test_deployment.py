"""What becomes of a model's section where its experts are on hosts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import app, metadata_server
from deployments.autoscaling import BUSY
from deployments.engine.cores import NodeCores, num_ranks_to_share, plan_cores
from deployments.experts import engine_tier
from deployments.experts.engine_tier import plan_tier_args
from deployments.experts.host_feed import cards_of
from deployments.experts.tier_folder import FOLDER_VARIABLE, TierFolder
from deployments.experts.tier_plan import check_tier, plan_tier
from deployments.settings import ModelSection
from experts.directory import DirectoryFile, HostCard
from experts.types import HostId
from infra.errors import ConfigError
from tests.builders.bound import bound_deployments
from tests.builders.scaling_context import scaling_context

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "dtype": "bfloat16",
}


def section(**changes: Any) -> ModelSection:
    experts = {"placement": "service"} | changes.pop("experts", {})
    fields = {"name": "m", "model": "some/model", "device": "cpu", "experts": experts}
    return ModelSection.model_validate(fields | changes)


def folder_of(path: Path, **changes: Any) -> str:
    (path / "config.json").write_text(json.dumps(MIXTRAL | changes))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "embed"}, "its task is embed"),
        ({"quantization": "awq"}, "quantization is set"),
        ({"engine_args": {"data_parallel_size": 2}}, "data_parallel_size is above 1"),
        ({"engine_args": {"enable_expert_parallel": True}}, "enable_expert_parallel is set"),
        ({"engine_args": {"load_format": "dummy"}}, "load_format is set"),
        ({"engine_args": {"additional_config": {}}}, "additional_config is set"),
    ],
)
def test_what_expert_hosts_cannot_serve_is_refused_with_its_reason(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=f"placement is service, which .* {reason}"):
        section(**changes)
    placed = {"name": "m", "model": "some/model"} | changes
    assert not ModelSection.model_validate(placed).has_expert_tier


def test_a_plan_says_what_engine_hosts_and_director_agree_upon(tmp_path: Path) -> None:
    plan = plan_tier(section(), folder_of(tmp_path))
    assert (plan.model_path, plan.dtype, plan.num_slots) == (tmp_path, "bfloat16", 5)
    assert plan.config.shape.num_experts == 8


@pytest.mark.parametrize(
    ("said", "asked", "expected"),
    [
        ("float32", "auto", "bfloat16"),
        (None, "auto", "bfloat16"),
        ("float16", "auto", "float16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_the_dtype_is_the_one_that_vllm_would_take(
    tmp_path: Path, said: str | None, asked: str, expected: str
) -> None:
    assert plan_tier(section(dtype=asked), folder_of(tmp_path, dtype=said)).dtype == expected


def test_models_without_experts_and_those_on_a_hub_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.m: expert hosts read a local folder"):
        plan_tier(section(), "some/model")
    with pytest.raises(ConfigError, match="the expert tier knows"):
        plan_tier(section(), folder_of(tmp_path, architectures=["LlamaForCausalLM"]))
    with pytest.raises(ConfigError, match=r"float8.*set dtype"):
        plan_tier(section(), folder_of(tmp_path, dtype="float8"))


def test_too_little_room_for_every_expert_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    path = folder_of(tmp_path)
    with pytest.raises(ConfigError, match=r"models\.m\.experts: 2 .* room for 6"):
        check_tier(section(experts={"slots_per_host": 3}), path)
    few = {"slots_per_host": 3, "num_hosts": 3, "min_hosts": 2}
    with pytest.raises(ConfigError, match="2 expert hosts have room for 6"):
        check_tier(section(experts=few), path)
    assert check_tier(section(experts=few | {"min_hosts": 3}), path).num_slots == 3


def test_engines_get_nothing_new_where_experts_stay_in_them() -> None:
    assert plan_tier_args(ModelSection(name="m", model="x"), "nowhere") == {}


def test_an_engine_on_gpus_captures_no_graph_of_what_asks_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tier, "entry_points", lambda **_: [object()])
    assert plan_tier_args(section(), folder_of(tmp_path), "cuda")["enforce_eager"] is True
    assert "enforce_eager" not in plan_tier_args(section(), folder_of(tmp_path), "cpu")


def test_vllms_configuration_has_neither_path_nor_secret_of_the_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tier, "entry_points", lambda **_: [object()])
    args = plan_tier_args(section(dispatch={"policy": "static"}), folder_of(tmp_path))
    tier = args.pop("additional_config")["coterie_experts"]
    assert args == {"dtype": "bfloat16", "load_format": "coterie_experts"}
    assert tier.pop("dispatch")["policy"] == "static"
    assert tier == {"model_path": str(tmp_path), "dtype": "bfloat16"}


def test_an_installation_without_our_plug_in_is_told_to_install_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tier, "entry_points", lambda **_: [])
    with pytest.raises(ConfigError, match="install coterie again"):
        plan_tier_args(section(), folder_of(tmp_path))


def test_an_engines_processes_find_hosts_and_secret_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = TierFolder(tmp_path)
    written.write_secret("s3cret")
    card = HostCard(HostId("a"), ("unix:///tmp/a",))
    written.write_hosts([card])
    with pytest.raises(ConfigError, match=FOLDER_VARIABLE):
        TierFolder.of_environment()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    read = TierFolder.of_environment()
    assert read.secret == "s3cret"
    assert DirectoryFile(read.directory).cards() == (card,)
    secret = next(path for path in tmp_path.iterdir() if "secret" in path.name)
    assert secret.stat().st_mode & 0o777 == 0o600
    TierFolder(tmp_path / "gone").write_hosts([card])
    assert not (tmp_path / "gone").exists()


def test_hosts_that_do_not_say_how_they_are_reached_are_left_out() -> None:
    b = {"host": "b", "addresses": ["tcp://n:1"]}
    a = {"host": "a", "addresses": ["unix:///tmp/a", "tcp://n:2"]}
    said: list[Any] = [{"expert_host": b}, {}, {"expert_host": a}, {"expert_host": {}}]
    replicas = {str(number): each for number, each in enumerate(said)}
    assert cards_of(replicas) == [HostCard.of(a), HostCard.of(b)]


def test_expert_hosts_share_out_the_cores_with_the_engines() -> None:
    tiered = section(experts={"num_hosts": 2, "max_hosts": 3})
    assert num_ranks_to_share([tiered]) == 4
    assert num_ranks_to_share([ModelSection(name="m", model="x")]) == 1
    bound = Counter[int]()
    taken = []
    for _ in range(3):
        [run] = plan_cores(tiered, NodeCores(range(9), 4, bound))
        bound.update(run)
        taken.append(run)
    assert taken == [[1, 2], [3, 4], [5, 6]]


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_server, "find", lambda _: None)


PLAIN = {"name": "plain", "model": "some/model", "device": "cpu"}
TIERED = PLAIN | {"name": "tiered", "experts": {"placement": "service"}}


@pytest.mark.usefixtures("no_index")
def test_only_a_model_with_a_tier_gets_hosts_and_a_director(tmp_path: Path) -> None:
    assert bound_deployments(tmp_path, PLAIN).keys() == {"gateway", "engine-plain"}
    found = bound_deployments(tmp_path, PLAIN, TIERED)
    extra = {"experts-tiered", "director-tiered"}
    assert found.keys() == {"gateway", "engine-plain", "engine-tiered"} | extra
    scaling = found["experts-tiered"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 2)
    assert found["engine-plain"].init_args[-2] is None
    hosts = found["engine-tiered"].init_args[-2]._bound_deployment
    assert hosts.name == "experts-tiered"


@pytest.mark.usefixtures("no_index")
def test_more_hosts_and_another_rebalancing_replace_neither_hosts_nor_engines(
    tmp_path: Path,
) -> None:
    def versions(**experts: Any) -> dict[str, Any]:
        placed = {"placement": "service", "slots_per_host": 4, "max_hosts": 5} | experts
        found = bound_deployments(tmp_path, TIERED | {"experts": placed})
        return {name: each.version for name, each in found.items()}

    before = versions()
    for change in ({"num_hosts": 3}, {"rebalance": {"min_copies": 2}}, {"min_hosts": 1}):
        after = versions(**change)
        assert {name for name in before if after[name] != before[name]} == {"director-tiered"}
    for own in ({"slots_per_host": 5}, {"precision": "int8"}):
        assert versions(**own)["experts-tiered"] != before["experts-tiered"]


@pytest.mark.usefixtures("no_index")
def test_hosts_that_may_be_more_or_fewer_are_scaled_by_serve(tmp_path: Path) -> None:
    scaling = {"target_busy_share": 0.5, "downscale_delay_s": 60, "look_back_period_s": 4}
    limits = {"num_hosts": 3, "min_hosts": 2, "max_hosts": 4, "autoscaling": scaling}
    experts = {"placement": "service"} | limits
    hosts = bound_deployments(tmp_path, TIERED | {"experts": experts})["experts-tiered"]
    found = hosts._deployment_config.autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (2, 3, 4)
    assert (found.upscale_delay_s, found.downscale_delay_s) == (15.0, 60.0)
    assert (found.look_back_period_s, found.metrics_interval_s) == (4.0, 2.0)
    made = found.policy.get_policy()(**found.policy.policy_kwargs)
    assert made(scaling_context(3, {BUSY: {"r1": 1.0}})) == (6, {})


@pytest.mark.usefixtures("no_index")
def test_stages_on_gpus_are_refused_a_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_built_for", lambda: "cuda")
    gpu = TIERED | {"device": "auto"}
    with pytest.raises(ConfigError, match=r"models\.tiered: .* pipeline_parallel_size to 1"):
        bound_deployments(tmp_path, gpu | {"pipeline_parallel_size": 2})
    assert "experts-tiered" in bound_deployments(tmp_path, gpu)


@pytest.mark.usefixtures("no_index")
def test_a_host_on_a_gpu_has_one_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = TIERED | {"experts": {"placement": "service", "host_device": "cuda"}}
    with pytest.raises(ConfigError, match=r"experts: host_device is cuda.*DEVICE=gpu"):
        bound_deployments(tmp_path, hosts)
    monkeypatch.setattr(app, "_built_for", lambda: "cuda")
    for model, num_gpus in ((hosts, 1.0), (TIERED, 0.0)):
        deployed = bound_deployments(tmp_path, model)["experts-tiered"]
        assert deployed._replica_config.ray_actor_options["num_gpus"] == num_gpus


def test_int8_is_refused_on_gpus() -> None:
    with pytest.raises(ValidationError, match="int8 is computed on CPUs alone"):
        section(experts={"precision": "int8", "host_device": "cuda"})
