"""An engine under a steady load of greedy requests, for tests and benches of its experts.

    python -m tests.builders.expert_load_program

The first line of its input is JSON: vLLM's `arguments`, `num_prompts`, `num_tokens`,
`max_token`, `once` and `prompts` (token ids, or null for random ones). It answers the same
prompts again and again, each taking the place of one that has ended, until a second line
comes; with `once`, each one time. Then it writes `answers`, a list of each prompt and its
token ids, in the order in which they ended, and `steps`, when each step of the engine ended
and how many tokens it had made.
"""

import itertools
import json
import os
import random
import sys
import threading
import time
from typing import Any

_ENGINE = {
    "skip_tokenizer_init": True,
    "max_model_len": 256,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 256 * 1024**2,
    "enable_prefix_caching": False,
    "enforce_eager": True,
}


def given(token_ids: list[list[int]] | None) -> list[dict[str, Any]]:
    """These, as vLLM takes them."""
    return [{"prompt_token_ids": ids} for ids in token_ids or ()]


def prompts(count: int, max_token: int) -> list[dict[str, Any]]:
    """Random ones, of 4 to 24 tokens."""
    dice = random.Random(5)
    return [
        {"prompt_token_ids": [dice.randrange(2, max_token) for _ in range(length)]}
        for length in (dice.randrange(4, 25) for _ in range(count))
    ]


def run(llm: Any, ask: dict[str, Any], is_over: threading.Event) -> dict[str, Any]:
    """Steps of the engine, until it is over."""
    from vllm import SamplingParams  # noqa: PLC0415 - takes seconds

    sampling = SamplingParams(
        temperature=0, max_tokens=ask["num_tokens"], ignore_eos=True, detokenize=False
    )
    engine = llm.llm_engine
    asked = given(ask["prompts"]) or prompts(ask["num_prompts"], ask["max_token"])
    numbers = iter(range(len(asked))) if ask["once"] else itertools.cycle(range(len(asked)))
    num_lanes = llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
    answers: list[tuple[int, list[int]]] = []
    steps: list[tuple[float, int]] = []
    under_way: dict[str, int] = {}
    names = itertools.count()
    while True:
        while len(under_way) < num_lanes and not is_over.is_set():
            number = next(numbers, None)
            if number is None:
                is_over.set()
                break
            name = str(next(names))
            engine.add_request(name, asked[number], sampling)
            under_way[name] = number
        if not under_way:
            return {"answers": answers, "steps": steps}
        outputs = engine.step()
        steps.append((time.monotonic(), len(outputs)))
        for output in outputs:
            if output.finished:
                number = under_way.pop(_name(output.request_id, under_way))
                answers.append((number, list(output.outputs[0].token_ids)))


def _name(request_id: str, known: dict[str, int]) -> str:
    """vLLM may put something after the name."""
    return request_id if request_id in known else request_id.rsplit("-", 1)[0]


def main() -> None:
    """See the module. vLLM writes to the standard output, so ours is kept."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from deployments.experts.in_engine import plugin  # noqa: PLC0415

    plugin.register()
    from vllm import LLM  # noqa: PLC0415 - takes seconds

    ask = json.loads(sys.stdin.readline())
    llm = LLM(**_ENGINE | ask["arguments"])
    lines.write("{}\n")
    lines.flush()
    is_over = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        is_over.set()

    if not ask["once"]:
        threading.Thread(target=listen, daemon=True).start()
    lines.write(json.dumps(run(llm, ask, is_over)) + "\n")
    lines.flush()


if __name__ == "__main__":
    main()
