"""Ray Serve LLM in a Ray cluster of its own, for the time of a benchmark.

Runs in an environment with a package more than ours:

    make setup VENV=build/serve-llm
    build/serve-llm/bin/uv pip install --python build/serve-llm/bin/python \
        -r tests/bench/serve_llm_requirements.txt -c infra/install/constraints.txt

Prints a line of JSON with its `url` once it serves, and ends, with everything it
started, at SIGTERM or at the end of its standard input.

Serve LLM gets what our engine gets: engine arguments, executor, threads and cores,
environment, one replica of the model and one of the ingress, workers at nice 0
(`serve_llm_engine` says how), so that only the serving layer differs. Metrics of
the engine are off, as they are with us; its access log and the 50 ms by which it
collects tokens before it sends them are its own defaults. With `--direct` the
ingress is left out: HAProxy hands requests straight to the model's replica.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments import local_cluster
from deployments.engine.environment import engine_environment
from deployments.engine.plan import plan_engine_args, plan_placement
from deployments.models.resolve import resolve_model
from deployments.settings import ClusterSection, ModelSection

_START_TIMEOUT_S = 600
# What Ray counts, not what is there: two for the model's replica, one the ingress.
_NUM_LOGICAL_CPUS = 8
_NAMED_BY_SERVE_LLM = ("model", "served_model_name", "distributed_executor_backend")


def llm_config(section: ModelSection, state_dir: Path) -> dict[str, Any]:
    """Arguments of Serve LLM's `LLMConfig` for what our engine does with the section."""
    path = resolve_model(section.model, state_dir).path
    executor = plan_placement(section, "cpu").executor
    args = plan_engine_args(section, "cpu", path, executor)
    return {
        "model_loading_config": {"model_id": section.name, "model_source": path},
        "accelerator_type": None,
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "deployment_config": {"num_replicas": section.num_replicas},
        "log_engine_metrics": not args["disable_log_stats"],
        "engine_kwargs": {
            **{k: v for k, v in args.items() if k not in _NAMED_BY_SERVE_LLM},
            # Of its HTTP server, which takes them from here: tell what was cached.
            "enable_prompt_tokens_details": True,
        },
        "callback_config": {
            "callback_class": "tests.bench.serve_llm_engine.EngineLikeOurs",
            "callback_kwargs": {
                "executor": executor,
                "section": section.model_dump(mode="json"),
            },
        },
    }


def direct_environment(folder: Path) -> Mapping[str, str]:
    """Variables that put HAProxy in front, with ports and files of its own."""
    http, grpc, metrics, stats = map(str, local_cluster.free_ports(4))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        # Nothing runs any more when the application is ended.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": http,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": grpc,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def serve_model(address: str, config: dict[str, Any], *, is_prefix_aware: bool) -> str:
    """Deploy it to the Ray cluster at this address; the URL where it answers."""
    # Both read the environment when they are imported.
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415
    from ray.serve.config import HTTPOptions, RequestRouterConfig  # noqa: PLC0415
    from ray.serve.llm import LLMConfig, build_openai_app  # noqa: PLC0415

    if is_prefix_aware:
        from ray.serve.llm.request_router import PrefixCacheAffinityRouter  # noqa: PLC0415

        router = RequestRouterConfig(request_router_class=PrefixCacheAffinityRouter)
        config["deployment_config"]["request_router_config"] = router
    (port,) = local_cluster.free_ports(1)
    ray.init(address=address, log_to_driver=False)
    # Ray has put a handler of its own in place, which aborts the program.
    _end_on_signals()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(build_openai_app({"llm_configs": [LLMConfig(**config)]}))
    url = f"http://127.0.0.1:{port}"
    while not _answers(f"{url}/v1/models"):
        time.sleep(0.2)
    return url


def stop_serving() -> None:
    """End the application's processes in good order, and leave the Ray cluster."""
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    serve.shutdown()
    # A program that is connected when its cluster ends is aborted.
    ray.shutdown()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end_on_signals() -> None:
    """Leave by an exception, once: what is entered is then left in good order."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(1)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--section", required=True, help="the model's section, as JSON")
    parser.add_argument("--state-dir", type=Path, required=True, help="where models are kept")
    parser.add_argument("--direct", action="store_true", help="HAProxy, direct streaming")
    parser.add_argument(
        "--prefix-aware", action="store_true", help="route by PrefixCacheAffinityRouter"
    )
    return parser.parse_args()


def main() -> None:
    """Serve until told to end."""
    arguments = _arguments()
    _end_on_signals()
    signal.alarm(_START_TIMEOUT_S)
    with tempfile.TemporaryDirectory(prefix="serve-llm-") as name:
        os.environ.update(engine_environment(arguments.state_dir))
        if arguments.direct:
            os.environ.update(direct_environment(Path(name)))
        section = ClusterSection(
            app_name="serve-llm", state_dir=Path(name), num_cpus=_NUM_LOGICAL_CPUS
        )
        local_cluster.use_auth_token(section)
        cluster = local_cluster.start(section)
        try:
            model = ModelSection.model_validate_json(arguments.section)
            config = llm_config(model, arguments.state_dir)
            url = serve_model(cluster.address, config, is_prefix_aware=arguments.prefix_aware)
            signal.alarm(0)
            print(json.dumps({"url": url}), flush=True)
            sys.stdin.read()
        finally:
            stop_serving()
            cluster.stop()


if __name__ == "__main__":
    main()
