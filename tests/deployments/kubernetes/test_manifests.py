"""What is rendered holds for an API server, for KubeRay's operator, for Ray and for Serve."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.serve.schema import ServeDeploySchema

from deployments import app
from tests.deployments.kubernetes.configurations import (
    EXPERTS,
    SMALL,
    example,
    objects,
    of_kind,
    rendering,
)
from tests.reference.kuberay_rules import broken_rules
from tests.reference.structural_schema import CustomResources

KUBERNETES = "1.33"
CASES = {"example": example(), "small": SMALL, "experts": EXPERTS}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def definitions() -> CustomResources:
    folder = os.environ.get("COTERIE_CRDS")
    if not folder:
        pytest.skip("no definitions of custom resources: set COTERIE_CRDS (see `make help`)")
    return CustomResources(Path(folder))


def errors(definitions: CustomResources, made: Object) -> list[str]:
    if definitions.knows(made):
        return definitions.errors(made)
    try:
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("case", CASES)
def test_an_api_server_takes_every_object(case: str, definitions: CustomResources) -> None:
    found = objects(CASES[case])
    assert {each["kind"] for each in found} >= {"RayService", "Service", "NetworkPolicy"}
    assert {each["kind"]: errors(definitions, each) for each in found} == {
        each["kind"]: [] for each in found
    }


def container(service: Object, group: int = 0) -> Object:
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    found: Object = groups[group]["template"]["spec"]["containers"][0]
    return found


def cluster(service: Object) -> Object:
    found: Object = service["spec"]["rayClusterConfig"]
    return found


SLIPS: dict[str, Callable[[Object], object]] = {
    "a misspelt field": lambda s: cluster(s).update(enableInTreeAutoscalling=True),
    "a number for a text": lambda s: cluster(s).update(rayVersion=2.6),
    "a text for a number": lambda s: cluster(s)["workerGroupSpecs"][0].update(minReplicas="1"),
    "a missing field": lambda s: cluster(s)["workerGroupSpecs"][0].pop("groupName"),
    "an unknown mode": lambda s: cluster(s)["authOptions"].update(mode="tokens"),
    "an unknown version": lambda s: cluster(s)["autoscalerOptions"].update(version="v3"),
    "a field one level too high": lambda s: s["spec"].update(rayVersion="2.60.0"),
    "an environment variable twice": lambda s: container(s)["env"].append(
        dict(container(s)["env"][0])
    ),
    "a port twice": lambda s: container(s)["ports"].append(dict(container(s)["ports"][0])),
    "a port without its number": lambda s: container(s)["ports"].append({"name": "more"}),
    "a probe of no kind": lambda s: container(s)["readinessProbe"].update(httpPost={}),
    "a wrong value of a limit": lambda s: container(s)["resources"]["limits"].update(cpu=[2]),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_the_check_finds_a_slip(slip: str, definitions: CustomResources) -> None:
    [service] = of_kind(objects(SMALL), "RayService")
    changed = copy.deepcopy(service)
    SLIPS[slip](changed)
    assert definitions.errors(service) == []
    assert len(definitions.errors(changed)) >= 1


@pytest.mark.parametrize("case", CASES)
def test_the_operator_refuses_nothing(case: str) -> None:
    [service] = of_kind(objects(CASES[case]), "RayService")
    assert broken_rules(service) == []


OPERATORS_SLIPS: dict[str, Callable[[Object], object]] = {
    "no DNS-1035 label": lambda s: s["metadata"].update(name="1-cluster"),
    "minReplicas is above": lambda s: cluster(s)["workerGroupSpecs"][0].update(minReplicas=9),
    "needs rayVersion": lambda s: cluster(s).pop("rayVersion"),
    "needs Ray 2.52": lambda s: cluster(s).update(rayVersion="2.51.0"),
    "set beside gcsFault": lambda s: cluster(s)["headGroupSpec"]["template"]["spec"][
        "containers"
    ][0]["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "redis://elsewhere"}),
    "must be Never": lambda s: cluster(s)["workerGroupSpecs"][0]["template"]["spec"].update(
        restartPolicy="Always"
    ),
    "both given": lambda s: cluster(s)["headGroupSpec"]["rayStartParams"].update(
        {"num-cpus": "0"}
    ),
    "two groups": lambda s: cluster(s)["workerGroupSpecs"].append(
        cluster(s)["workerGroupSpecs"][0]
    ),
    "no port serve": lambda s: cluster(s)["headGroupSpec"]["template"]["spec"]["containers"][
        0
    ].update(ports=[]),
}


@pytest.mark.parametrize("rule", OPERATORS_SLIPS)
def test_the_operators_rules_find_a_slip(rule: str) -> None:
    [service] = of_kind(objects(SMALL), "RayService")
    OPERATORS_SLIPS[rule](service)
    assert any(rule in broken for broken in broken_rules(service)), broken_rules(service)


@pytest.mark.parametrize("case", CASES)
def test_serve_takes_the_application(case: str) -> None:
    [service] = of_kind(objects(CASES[case]), "RayService")
    fields = yaml.safe_load(service["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(fields)
    [application] = schema.applications
    assert application.import_path == "deployments.app:build"
    # Serve passes unknown keys of an application over.
    assert set(fields["applications"][0]) <= set(type(application).model_fields)


@pytest.mark.parametrize("case", CASES)
def test_every_replica_fits_a_pod_of_its_group_and_no_other(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_LINK_TOKEN", "a-token-that-is-long-enough-to-be-one")
    monkeypatch.setattr(app, "_built_for", lambda: "cuda" if case == "example" else "cpu")
    [service] = of_kind(objects(CASES[case]), "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    offers = {name: node["resources"] for name, node in node_types(service).items()}
    demands = demands_of(app.build(config["applications"][0]["args"]))
    assert len(demands) == len(offers) - 1 + (case == "experts"), "a director has no group"
    for deployment, demand in demands.items():
        for bundle in demand:
            homes = [name for name, offer in offers.items() if fits(bundle, offer)]
            assert len(homes) == 1, (deployment, bundle, offers)


def fits(demand: dict[str, float], offer: dict[str, float]) -> bool:
    return all(offer.get(key, 0) >= amount for key, amount in demand.items())


def test_the_ranks_of_all_stages_fill_their_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_LINK_TOKEN", "a-token-that-is-long-enough-to-be-one")
    monkeypatch.setattr(app, "_built_for", lambda: "cuda")
    [service] = of_kind(objects(example()), "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    bundles = demands_of(app.build(config["applications"][0]["args"]))["engine-deepseek-v3"]
    node = node_types(service)["engine-deepseek-v3"]
    pods = [dict(node["resources"]) for _ in range(node["max_workers"])]
    for bundle in bundles:
        home = next(pod for pod in pods if fits(bundle, pod))
        for key, amount in bundle.items():
            home[key] -= amount
    assert [pod["GPU"] for pod in pods] == [0, 0]


def node_types(service: Object) -> dict[str, Any]:
    """As Ray's autoscaler reads the RayCluster that KubeRay makes of it."""
    spec = service["spec"]["rayClusterConfig"]
    resource = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(resource)[
        "available_node_types"
    ]
    return found


def demands_of(application: Any) -> dict[str, list[dict[str, float]]]:
    """What a replica of each deployment asks Ray for: bundles."""
    found: dict[str, list[dict[str, float]]] = {}
    pending = [application]
    while pending:
        deployment = pending.pop()._bound_deployment
        options = deployment.ray_actor_options
        own = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0)}
        own |= options.get("resources", {})
        bundles = deployment._replica_config.placement_group_bundles
        found[deployment.name] = bundles or [own]
        for argument in deployment.init_args:
            inner = argument.values() if isinstance(argument, dict) else [argument]
            pending += [each for each in inner if hasattr(each, "_bound_deployment")]
    return found


def test_rays_autoscaler_reads_limits_priorities_and_idle_times() -> None:
    kubernetes = {
        "idle_timeout_s": 120,
        "groups": {"engine-small": {"priority": 3, "idle_timeout_s": 900, "max_pods": 4}},
    }
    [service] = of_kind(objects(SMALL | {"kubernetes": kubernetes}), "RayService")
    engine = node_types(service)["engine-small"]
    assert engine["max_workers"] == 4
    assert engine["priority"] == 3
    assert engine["idle_timeout_s"] == 900
    assert engine["resources"]["engine-small"] == 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("folder", ["base", "overlays/dev", "overlays/gpu"])
def test_kustomize_builds_it(
    case: str, folder: str, tmp_path: Path, definitions: CustomResources
) -> None:
    built = kustomized(CASES[case], folder, tmp_path)
    [service] = of_kind(built, "RayService")
    [gateway, *_] = cluster(service)["workerGroupSpecs"]
    assert gateway["groupName"] == "gateway"
    assert [error for each in built for error in errors(definitions, each)] == []
    assert broken_rules(service) == []
    pods = [group["minReplicas"] for group in cluster(service)["workerGroupSpecs"]]
    assert folder != "overlays/dev" or pods == [1] * len(pods)


def kustomized(sections: Object, folder: str, tmp_path: Path) -> list[Object]:
    for path, text in rendering(sections).files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    kubectl = shutil.which("kubectl")
    assert kubectl is not None
    command = [kubectl, "kustomize", str(tmp_path / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_only_pods_with_gpus_bear_the_taint_of_gpu_nodes(tmp_path: Path) -> None:
    [service] = of_kind(kustomized(example(), "overlays/gpu", tmp_path), "RayService")
    bear = {
        group["groupName"]: "tolerations" in group["template"]["spec"]
        for group in cluster(service)["workerGroupSpecs"]
    }
    assert bear == {
        "gateway": False,
        "engine-deepseek-v3": True,
        "engine-qwen3-32b": True,
        "drafts-qwen3-32b": True,
    }
