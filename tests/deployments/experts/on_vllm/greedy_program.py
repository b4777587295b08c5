"""A process with vLLM engines in it, one after the other: what each says to the same prompts.

    python -m tests.deployments.experts.on_vllm.greedy_program JSON

The argument is a list of engines, each with its `arguments` and what it needs of the
`environment`. What is printed last is a list of what each says: a list of token ids for each
prompt.
"""

import gc
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

NUM_PROMPTS = 16
NUM_TOKENS = 24
_ENGINE = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "max_model_len": 128,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 16 * 1024**2,
    "enforce_eager": True,
}


def greedy(args: dict[str, Any]) -> list[list[int]]:
    """Greedy answers to random prompts, several of them in a step."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - takes seconds
    from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415

    llm = LLM(**_ENGINE | args)
    rng = random.Random(3)
    prompts = [
        {"prompt_token_ids": [rng.randrange(2, 256) for _ in range(rng.randrange(1, 20))]}
        for _ in range(NUM_PROMPTS)
    ]
    sampling = SamplingParams(
        temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False
    )
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return [list(answer.outputs[0].token_ids) for answer in answers]


def learn_architecture(model: Path) -> None:
    """vLLM would start a process, which takes seconds, to look at a class of models."""
    from vllm import ModelRegistry  # noqa: PLC0415

    [name] = json.loads((model / "config.json").read_text())["architectures"]
    ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def said_by(engine: dict[str, Any]) -> list[list[int]]:
    """What one engine says."""
    from vllm.platforms import current_platform  # noqa: PLC0415

    os.environ.update(engine["environment"])
    learn_architecture(Path(engine["arguments"]["model"]))
    said = greedy(engine["arguments"])
    # For the process, not for an engine; and it cannot take what numba brings, which a tier
    # imports, later than this is called where each engine has processes of its own.
    type(current_platform).register_triton_kernel_overrides = staticmethod(lambda: None)
    return said


if __name__ == "__main__":
    from deployments.experts.in_engine import plugin

    plugin.register()
    print(json.dumps([said_by(engine) for engine in json.loads(sys.argv[1])]))
