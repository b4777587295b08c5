"""Greedy tokens of vLLM called directly, in one process of its own: the slow twin."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.engine.environment import engine_environment
from deployments.engine.plan import CORE_EXECUTOR
from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR

# Without processes of its own, each of which would import vLLM anew.
_PROGRAM = """
import json, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    asked = json.load(sys.stdin)
    llm = LLM(**asked["engine_args"])
    params = SamplingParams(temperature=0, max_tokens=asked["num_tokens"], ignore_eos=True)
    outputs = llm.generate(asked["prompts"], params, use_tqdm=False)
    print(json.dumps([list(o.outputs[0].token_ids) for o in outputs]))
"""


def greedy_by_vllm(
    section: Mapping[str, Any], prompts: Sequence[str], num_tokens: int
) -> list[list[int]]:
    """Output tokens. Shape: [len(prompts), num_tokens]."""
    engine_args = {k: v for k, v in section.items() if k not in {"name", "model"}}
    engine_args["model"] = resolve_model(section["model"], STATE_DIR).path
    engine_args["distributed_executor_backend"] = CORE_EXECUTOR
    asked = {"engine_args": engine_args, "prompts": list(prompts), "num_tokens": num_tokens}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | engine_environment(STATE_DIR),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # vLLM logs to standard output as well.
    answer = next(line for line in done.stdout.splitlines() if line.startswith("[["))
    found: list[list[int]] = json.loads(answer)
    return found
