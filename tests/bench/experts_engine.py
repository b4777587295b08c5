"""An engine for `tests.bench.experts`: a process that does what its standard input says.

The first line is JSON: vLLM's `arguments`. For each further line, `batch` and `num_tokens`,
it writes one of JSON: `seconds` for so many tokens each, `first_s` for one token each, and
`stats`, what an expert tier's client did in between, if it has one.
"""

import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.line_engine import serve

NUM_PROMPT_TOKENS = 32
_ENGINE = {
    "skip_tokenizer_init": True,
    "max_model_len": 512,
    "max_num_seqs": 32,
    "kv_cache_memory_bytes": 512 * 1024**2,
    "enable_prefix_caching": False,
}


def tier_stats() -> dict[str, Any] | None:
    """Counts of this process's tier."""
    hosted = sys.modules.get("deployments.experts.in_engine.hosted")
    tiers = [] if hosted is None else list(hosted._tiers.values())
    return tiers[0].client.stats.as_dict() if tiers else None


def timed(llm: Any, batch: int, num_tokens: int, seed: int) -> float:
    """Seconds for so many tokens of each of so many prompts."""
    from vllm import SamplingParams  # noqa: PLC0415 - takes seconds

    dice = random.Random(seed)
    prompts = [
        {"prompt_token_ids": [dice.randrange(2, 32_000) for _ in range(NUM_PROMPT_TOKENS)]}
        for _ in range(batch)
    ]
    sampling = SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
    )
    start_s = time.monotonic()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.monotonic() - start_s


def answer(llm: Any, ask: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What one line asks for."""
    first_s = timed(llm, ask["batch"], 1, ask["seed"])
    before = tier_stats()
    seconds = timed(llm, ask["batch"], ask["num_tokens"], ask["seed"])
    after = tier_stats()
    stats = None
    if before is not None and after is not None:
        stats = {key: after[key] - before[key] for key in after}
    yield {"first_s": first_s, "seconds": seconds, "stats": stats}


def _register() -> None:
    from deployments.experts.in_engine import plugin  # noqa: PLC0415

    plugin.register()


if __name__ == "__main__":
    serve(_ENGINE, answer, _register)
