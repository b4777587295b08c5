"""What the routing policies are worth: conversations over two engine replicas.

One cluster with two engines on the CPU. In each round every policy, in turn, gets
conversations of its own (`tests.bench.conversations`), whose prefixes no other has. They
fit into the two caches together, and not into each of them.

    python -m tests.bench.routing --rounds 3 --json tests/bench/results/routing.json

With `--serve-llm PYTHON`, an interpreter of the environment that `tests.bench.serve_llm`
describes, Ray Serve LLM gets the same load with the same engines: with its
`PrefixCacheAffinityRouter`, and with its default router.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from coterie.benchmark.driver import Manner
from coterie.benchmark.openai_http import OpenAIHttpDriver
from deployments.settings import ModelSection
from router.types import PolicyName
from tests.bench.conversations import Shape, Turn, conversations, hold, most_cached_symbols
from tests.bench.serve_llm_process import RunningServeLLM
from tests.builders.cluster import STATE_DIR, RunningCluster

SHAPE = Shape()
BLOCK_SIZE = 32
MODEL: dict[str, Any] = {
    "name": "bench",
    "model": "smollm2-135m-instruct",
    "num_replicas": 2,
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "enforce_eager": True,
    # 7,000 tokens or so; all conversations together have some 10,000.
    "kv_cache_memory_bytes": 160 * 1024**2,
    "engine_args": {"block_size": BLOCK_SIZE},
}
POLICIES: tuple[str, ...] = get_args(PolicyName)
SERVE_LLM_ROUTERS = ("serve-llm-prefix", "serve-llm-default")


@dataclass(frozen=True)
class Result:
    """One policy in one round; times in seconds."""

    ttft_p50_s: float
    ttft_p90_s: float
    cached_share: float
    """Prompt tokens that were cached."""
    of_all_knowing: float
    """Cached tokens, in relation to those of an all-knowing assignment."""
    output_tokens_per_s: float


@dataclass(frozen=True)
class Row(Result):
    """One policy: medians over the rounds."""

    policy: str
    num_rounds: int
    of_all_knowing_min: float
    rounds: tuple[Result, ...]
    """Each of them, in order."""


def result_of(turns: Sequence[Turn]) -> Result:
    """What the turns of one load say."""
    ttfts_s = sorted(turn.first_s - turn.sent_s for turn in turns)
    num_cached = sum(turn.num_cached_tokens for turn in turns)
    num_made = SHAPE.num_output_tokens * len(turns)
    return Result(
        ttft_p50_s=statistics.median(ttfts_s),
        ttft_p90_s=statistics.quantiles(ttfts_s, n=10)[-1],
        cached_share=num_cached / sum(turn.num_prompt_tokens for turn in turns),
        of_all_knowing=num_cached / most_cached_symbols(turns, BLOCK_SIZE),
        output_tokens_per_s=num_made / max(turn.end_s for turn in turns),
    )


async def measure(url: str, seed: int, num_clients: int) -> Result:
    """Hold conversations with the server at this base URL."""
    driver = OpenAIHttpDriver(
        url, Manner(model=MODEL["name"], temperature=0.0, ignore_eos=True)
    )
    try:
        alphabet = await driver.prepare()
        plan = conversations(SHAPE, len(alphabet), seed)
        turns = await hold(
            driver,
            plan,
            alphabet,
            num_clients=num_clients,
            num_output_tokens=SHAPE.num_output_tokens,
        )
    finally:
        await driver.close()
    return result_of(turns)


def rounds_of(policies: Sequence[str], num_rounds: int, num_clients: int) -> list[Row]:
    """Ours: all policies in turn, which begins with another one in each round, after one
    load that warms up."""
    results: dict[str, list[Result]] = {policy: [] for policy in policies}
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningCluster(Path(folder), "routing", models=[MODEL]) as cluster,
    ):
        url = f"{cluster.http_url}/v1"
        asyncio.run(measure(url, 0, num_clients))
        for number in range(num_rounds):
            for place in range(len(policies)):
                policy = policies[(place + number) % len(policies)]
                # Gateways are replaced, engines stay; their old prefixes are of no use.
                cluster.change(router={"policy": policy})
                seed = 1 + number * len(policies) + place
                found = asyncio.run(measure(url, seed, num_clients))
                _say(f"round {number}, {policy}", found)
                results[policy].append(found)
    return [_row(policy, found) for policy, found in results.items()]


def serve_llm_rows(python: Path, num_rounds: int, num_clients: int) -> list[Row]:
    """Ray Serve LLM's: one router after the other, as each needs its own engines."""
    rows = []
    section = ModelSection.model_validate(MODEL)
    for name in SERVE_LLM_ROUTERS:
        is_prefix_aware = name == "serve-llm-prefix"
        with RunningServeLLM(
            python, section, STATE_DIR, is_direct=False, is_prefix_aware=is_prefix_aware
        ) as server:
            url = f"{server.url}/v1"
            asyncio.run(measure(url, 0, num_clients))
            found = []
            for number in range(num_rounds):
                found.append(asyncio.run(measure(url, 1 + number, num_clients)))
                _say(f"round {number}, {name}", found[-1])
        rows.append(_row(name, found))
    return rows


def _row(policy: str, found: Sequence[Result]) -> Row:
    values = [asdict(each) for each in found]
    medians = {key: round(statistics.median(v[key] for v in values), 4) for key in values[0]}
    return Row(
        **medians,
        policy=policy,
        num_rounds=len(found),
        of_all_knowing_min=round(min(each.of_all_knowing for each in found), 4),
        rounds=tuple(found),
    )


def _say(what: str, found: Result) -> None:
    sys.stderr.write(
        f"{what}: TTFT p50 {found.ttft_p50_s:.3f} s, p90 {found.ttft_p90_s:.3f} s, "
        f"{found.cached_share:.1%} cached ({found.of_all_knowing:.1%} of all-knowing), "
        f"{found.output_tokens_per_s:.1f} tokens/s\n"
    )


def main() -> None:
    """Measure and print a row of JSON for each policy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--clients", type=int, default=4, help="turns under way (default 4)")
    parser.add_argument(
        "--policies", nargs="*", metavar="NAME", default=POLICIES, help="default: all; or none"
    )
    parser.add_argument("--serve-llm", type=Path, help="interpreter for Ray Serve LLM")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.policies) - set(POLICIES):
        parser.error(f"no policies: {', '.join(sorted(unknown))}")
    rows = []
    if arguments.policies:
        rows += rounds_of(arguments.policies, arguments.rounds, arguments.clients)
    if arguments.serve_llm:
        rows += serve_llm_rows(arguments.serve_llm, arguments.rounds, arguments.clients)
    text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
