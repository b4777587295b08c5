"""What is made of a configuration, and what is said of one that cannot run in pods."""

from typing import Any

import pytest

from infra.errors import ConfigError
from tests.deployments.kubernetes.configurations import (
    EXPERTS,
    SMALL,
    example,
    objects,
    of_kind,
    rendering,
)


def worker(sections: dict[str, Any], name: str) -> dict[str, Any]:
    [service] = of_kind(objects(sections), "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [found] = [group for group in groups if group["groupName"] == name]
    return dict(found)


def test_each_kind_has_pods_of_its_own() -> None:
    groups = {group.deployment: group for group in rendering(EXPERTS).groups}
    assert {name: (g.name, g.min_pods, g.max_pods) for name, g in groups.items()} == {
        "gateway": ("gateway", 1, 1),
        "engine-Team--Moe-1.5": ("engine-team-moe-1-5-ad8578", 1, 1),
        "experts-Team--Moe-1.5": ("experts-team-moe-1-5-aa7b72", 3, 5),
        "drafts-Team--Moe-1.5": ("drafts-team-moe-1-5-c82d05", 1, 2),
    }
    assert {name: g.offers for name, g in groups.items()} == {
        "gateway": {"gateway": 1, "director-Team--Moe-1.5": 1},
        "engine-Team--Moe-1.5": {"engine-Team--Moe-1.5": 1},
        "experts-Team--Moe-1.5": {"experts-Team--Moe-1.5": 1},
        "drafts-Team--Moe-1.5": {"drafts-Team--Moe-1.5": 1},
    }


def test_pods_of_engines_follow_the_limits_of_their_replicas_down_to_none() -> None:
    limits = {"min_replicas": 0, "max_replicas": 5, "max_model_len": 512}
    models = [SMALL["models"][0] | limits]
    gateway = SMALL["gateway"] | {"num_replicas": 2, "max_replicas": 4}
    groups = {"engine-small": {"replicas_per_pod": 2}}
    sections = {"models": models, "gateway": gateway, "kubernetes": {"groups": groups}}
    gateways, engines = rendering(SMALL | sections).groups
    assert (gateways.min_pods, gateways.max_pods) == (2, 4)
    assert (engines.min_pods, engines.max_pods) == (0, 3)
    group = worker(SMALL | sections, "engine-small")
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (0, 0, 3)


def test_a_pipeline_stage_is_a_pod() -> None:
    [_, stages, whole, drafts] = rendering(example()).groups
    assert (stages.min_pods, stages.need.num_gpus) == (2, 8)
    # A rank to each GPU, and the replica's own actor on one of them.
    assert stages.offers == {"engine-deepseek-v3": 9}
    assert (whole.min_pods, whole.need.num_gpus) == (1, 8)
    assert whole.offers == {"engine-qwen3-32b": 4}
    assert (drafts.min_pods, drafts.max_pods, drafts.need.num_gpus) == (1, 2, 1)


def test_files_below_one_another_are_mounted_together() -> None:
    spec = worker(example(), "gateway")["template"]["spec"]
    [container] = spec["containers"]
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert set(mounts) == {"/dev/shm", "/var/lib/coterie", "/etc/coterie", "/models"}
    [volume] = [v for v in spec["volumes"] if v["name"] == mounts["/etc/coterie"]]
    items = [
        (source["secret"]["name"], item["key"], item["path"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    ]
    assert sorted(items) == [
        ("coterie-index-store", "password", "index/password"),
        ("coterie-keys", "keys.yaml", "keys.yaml"),
        ("coterie-tls", "tls.crt", "tls/tls.crt"),
        ("coterie-tls", "tls.key", "tls/tls.key"),
    ]


def test_pods_have_the_time_that_streams_are_given_to_end() -> None:
    slow = {"gateway": SMALL["gateway"] | {"drain_timeout_s": 120}}
    spec = worker(SMALL | slow, "gateway")["template"]["spec"]
    [container] = spec["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "135"
    assert spec["terminationGracePeriodSeconds"] == 180


def test_nobody_is_root_and_only_the_head_speaks_to_kubernetes() -> None:
    found = objects(example())
    [service] = of_kind(found, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    workers = [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    head = cluster["headGroupSpec"]["template"]["spec"]
    stores = [each["spec"]["template"]["spec"] for each in of_kind(found, "StatefulSet")]
    assert len(stores) == 2
    for spec in [head, *workers, *stores]:
        assert spec["securityContext"]["runAsNonRoot"] is True
        [container] = spec["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(spec["automountServiceAccountToken"] is False for spec in [*workers, *stores])


def test_no_secret_is_written_and_all_are_named() -> None:
    found = rendering(example())
    assert of_kind(objects(example()), "Secret") == []
    assert found.secrets == {
        "coterie-link": ["token"],
        "coterie-ray-token": ["auth_token"],
        "coterie-index-store": ["password"],
        "coterie-keys": ["keys.yaml"],
        "coterie-tls": ["tls.crt", "tls.key"],
        "coterie-head-store": ["password"],
    }


def test_a_server_of_ones_own_takes_the_place_of_the_indexs() -> None:
    own = SMALL | {"cache": {"url": "redis://valkey.data:6380"}}
    names = [each["metadata"]["name"] for each in of_kind(objects(own), "StatefulSet")]
    assert names == ["coterie-head-store"]
    [policy] = [
        each
        for each in of_kind(objects(own), "NetworkPolicy")
        if each["metadata"]["name"] == "coterie-ray"
    ]
    ports = [
        port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])
    ]
    assert 6380 in ports


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a door that nobody reaches": (
        SMALL | {"gateway": {}},
        "gateway.host is 127.0.0.1, which nothing outside a pod reaches; write 0.0.0.0",
    ),
    "a device that nobody knows": (
        SMALL | {"models": [{"name": "a", "model": "smollm2-135m-instruct"}]},
        "models.a: device is auto, .* write device: cuda or device: cpu",
    ),
    "a file that pods lack": (
        SMALL | {"gateway": {"host": "0.0.0.0", "api_keys_file": "/etc/keys.yaml"}},
        r"gateway.api_keys_file is /etc/keys.yaml, and pods have no such file; name the Secret",
    ),
    "a model that pods lack": (
        EXPERTS | {"kubernetes": {}},
        "models.Team/Moe-1.5.model is /models/moe, and pods have no such file",
    ),
    "a group that there is not": (
        SMALL | {"kubernetes": {"groups": {"engine-smal": {}}}},
        "kubernetes: there is no group engine-smal; did you mean engine-small?",
    ),
    "a volume for a group that there is not": (
        SMALL
        | {"kubernetes": {"volumes": [{"folder": "/a", "empty": "1Gi", "groups": ["draft"]}]}},
        "kubernetes: there is no group draft; write engine-small, gateway, head",
    ),
    "fewer pods at most than at least": (
        SMALL | {"kubernetes": {"groups": {"gateway": {"min_pods": 3, "max_pods": 2}}}},
        "kubernetes.groups.gateway: max_pods 2 is less than 3",
    ),
    "metrics that nobody reaches": (
        SMALL | {"telemetry": {"metrics_port": 9090}},
        "telemetry.metrics_host is 127.0.0.1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_run_in_pods_is_refused_with_what_to_change(case: str) -> None:
    sections, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        rendering(sections).files()
