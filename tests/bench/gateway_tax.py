"""What serving costs: paths through a cluster against the bare engine.

All paths run in one go, on the same machine, with the same engine settings and
cores and prompts of the same lengths; `paths` lists them. Each level of
concurrency is measured in rounds that take the paths in turn, one ratio a round.

    python -m tests.bench.gateway_tax --rounds 5
    python -m tests.bench.gateway_tax --rounds 5 --serve-llm-python PYTHON \
        --paths gateway gateway-http serve-llm serve-llm-direct

    python -m tests.bench.gateway_tax --rounds 15 --guarded

The second line needs the interpreter of an environment with Ray Serve LLM;
`serve_llm` tells how to make one. It takes 16 GB of memory: four engines, the
bare one among them, and three Ray clusters. The third has the gateway do what it
does for strangers: keys, limits, and metrics, usage records and sampled traces.
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployments.settings import ModelSection
from tests.bench.paths import (
    GATEWAY_PATHS,
    KEY_VARIABLE,
    PATHS,
    SERVE_LLM_PATHS,
    direct,
    open_path,
)
from tests.bench.rounds import BASE, Load, Row, compare
from tests.bench.serve_llm_process import RunningServeLLM
from tests.builders.cluster import STATE_DIR, RunningCluster
from tests.builders.keys import add_key
from tests.builders.otlp_receiver import receiving


def start_servers(
    arguments: argparse.Namespace, section: ModelSection, servers: ExitStack
) -> Mapping[str, str]:
    """Start what the chosen paths lead to, to end with `servers`; path to address."""
    path_to_address = {}
    if not set(GATEWAY_PATHS).isdisjoint(arguments.paths):
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory()))
        models = [section.model_dump(mode="json", exclude_defaults=True)]
        sections = guarded(folder, servers) if arguments.guarded else {}
        cluster = servers.enter_context(
            RunningCluster(folder, "bench", models=models, **sections)
        )
        path_to_address["gateway"] = cluster.address
        path_to_address["gateway-http"] = cluster.http_url
    for path in [path for path in SERVE_LLM_PATHS if path in arguments.paths]:
        server = RunningServeLLM(
            arguments.serve_llm_python,
            section,
            STATE_DIR,
            is_direct=path == "serve-llm-direct",
        )
        path_to_address[path] = servers.enter_context(server).url
    return {path: path_to_address[path] for path in arguments.paths}


def guarded(folder: Path, servers: ExitStack) -> dict[str, Any]:
    """Sections of a gateway that asks for keys, limits and tells; sets the variable
    from which our client takes its key."""
    _, endpoint = servers.enter_context(receiving())
    os.environ[KEY_VARIABLE] = add_key(folder / "keys.yaml", "bench")
    limits = {"max_concurrent_requests": 1000, "tokens_per_minute": 10**9}
    return {
        "gateway": {"api_keys_file": str(folder / "keys.yaml")},
        "tenants": [{"name": "bench"} | limits, {"name": "another"}],
        "telemetry": {
            "otlp_endpoint": endpoint,
            "trace_sampling_ratio": 0.01,
            "access_log": True,
            "usage_dir": str(folder / "usage"),
        },
    }


async def run(
    arguments: argparse.Namespace, section: ModelSection, path_to_address: Mapping[str, str]
) -> list[Row]:
    """Measure all paths, and print each row as it is found."""
    load = Load(
        levels=arguments.concurrency,
        num_rounds=arguments.rounds,
        num_prompt_tokens=arguments.prompt_tokens,
        num_output_tokens=arguments.output_tokens,
    )
    rows = []
    async with AsyncExitStack() as opened:
        paths = {BASE: await opened.enter_async_context(direct(section))}
        for name, address in path_to_address.items():
            path = open_path(name, address, section.name)
            paths[name] = await opened.enter_async_context(path)
        async for row in compare(paths, load):
            rows.append(row)
            print(json.dumps(asdict(row)), flush=True)
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds a level (default 5)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 4, 16, 32], help="levels"
    )
    parser.add_argument(
        "--paths", nargs="+", choices=PATHS, default=["gateway"], help="default: gateway"
    )
    parser.add_argument(
        "--guarded", action="store_true", help="keys, limits, metrics, sampled traces"
    )
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument(
        "--cores",
        type=int,
        nargs="+",
        help="cores of the engines' threads (default: all but one)",
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument(
        "--serve-llm-python", type=Path, help="interpreter that has Ray Serve LLM"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    found = parser.parse_args()
    if not set(SERVE_LLM_PATHS).isdisjoint(found.paths) and not found.serve_llm_python:
        parser.error("the paths of Ray Serve LLM need --serve-llm-python")
    return found


def main() -> None:
    """Measure and print a row of JSON for each level and path."""
    arguments = _arguments()
    section = ModelSection(
        name="bench",
        model=arguments.model,
        max_model_len=2048,
        enforce_eager=True,
        cpu_cores_per_rank=[arguments.cores] if arguments.cores else None,
    )
    with ExitStack() as servers:
        path_to_address = start_servers(arguments, section, servers)
        rows = asyncio.run(run(arguments, section, path_to_address))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
