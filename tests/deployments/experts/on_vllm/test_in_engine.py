"""vLLM with its routed experts elsewhere: the same tokens, for each architecture."""

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.experts.in_engine import plugin
from deployments.experts.in_engine.tier import TierConfig, _tiers
from tests.builders.moe_checkpoints import ARCHITECTURES, write_moe
from tests.reference.expert_tier import SlowTier

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

NUM_PROMPTS = 16
OPENER = "tests.reference.expert_tier:SlowTier"


@pytest.fixture(autouse=True)
def engine_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setitem(os.environ, "VLLM_NO_USAGE_STATS", "1")
    plugin.register()
    yield
    _tiers.clear()
    gc.collect()


def greedy(path: Path, **changes: Any) -> list[tuple[int, ...]]:
    """What the model says to random prompts, some of them together in one step."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - takes seconds

    llm = LLM(
        model=str(path),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=128,
        max_num_seqs=8,
        kv_cache_memory_bytes=16 * 1024**2,
        **{"enforce_eager": True} | changes,
    )
    rng = random.Random(3)
    prompts = [
        {"prompt_token_ids": [rng.randrange(2, 256) for _ in range(rng.randrange(1, 20))]}
        for _ in range(NUM_PROMPTS)
    ]
    sampling = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, detokenize=False)
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    return [tuple(answer.outputs[0].token_ids) for answer in answers]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_experts_elsewhere_give_the_same_tokens(name: str, tmp_path: Path) -> None:
    path = write_moe(name, tmp_path)
    expected = greedy(path)
    config = TierConfig(OPENER, str(path), {})
    found = greedy(
        path,
        load_format="coterie_experts",
        additional_config=config.as_additional_config(),
    )
    (tier,) = _tiers.values()
    assert isinstance(tier, SlowTier)
    assert tier.num_calls > 0
    assert len(set(expected)) > NUM_PROMPTS / 2, "the prompts lead to different answers"
    assert found == expected
