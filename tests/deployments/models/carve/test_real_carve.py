"""SmolLM2 carved for real, on a fraction of the usual text, and measured by transformers.

`tests.bench.carve` measures the built-in mixture itself, which takes minutes.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.models.builtin import NAME_TO_BUILTIN
from deployments.models.carve.carving import carve_into
from deployments.models.carve.texts import default_texts
from deployments.models.resolve import resolve_model
from infra.progress import SILENT
from tests.builders.cluster import STATE_DIR

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_CALIBRATION_TOKENS, NUM_HELD_OUT_TOKENS, LENGTH = 1024, 512, 256


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `smollm2-carved-16x12`, but for the number of tokens."""
    builtin = NAME_TO_BUILTIN["smollm2-carved-16x12"]
    assert builtin.carving
    settings = replace(
        builtin.carving,
        num_calibration_tokens=NUM_CALIBRATION_TOKENS,
        num_held_out_tokens=NUM_HELD_OUT_TOKENS,
        sequence_tokens=LENGTH,
    )
    dense = Path(resolve_model("smollm2-135m-instruct", STATE_DIR).path)
    out_dir = tmp_path_factory.mktemp("carved") / "out"
    carve_into(out_dir, dense, default_texts(settings.seed), settings, SILENT)
    return out_dir


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_it_is_a_qwen2_moe_of_16_experts_with_12_active(carved: Path) -> None:
    expected = {
        "architectures": ["Qwen2MoeForCausalLM"],
        "dtype": "bfloat16",
        "num_experts": 16,
        "num_experts_per_tok": 12,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    }
    config = read_json(carved / "config.json")
    assert {key: config[key] for key in expected} == expected
    sampling = read_json(carved / "generation_config.json")
    assert (sampling["temperature"], sampling["top_p"]) == (0.2, 0.9)
    assert (carved / "chat_template.jinja").exists()


def test_the_cut_loses_nothing_and_four_idle_experts_little(carved: Path) -> None:
    found = read_json(carved / "carve.json")["perplexity"]
    assert found["all_active"] == pytest.approx(found["dense"], rel=1e-3)
    assert found["dense"] < found["carved"] < 1.25 * found["dense"]


def test_transformers_measures_the_perplexity_that_the_carver_claims(carved: Path) -> None:
    from tests.reference.perplexity import perplexity_of  # noqa: PLC0415 - takes seconds

    claimed = read_json(carved / "carve.json")["perplexity"]
    text = default_texts(0).held_out
    found = perplexity_of(carved, text, LENGTH, NUM_HELD_OUT_TOKENS)
    assert found == pytest.approx(claimed["carved"], rel=0.01)


def test_it_speaks_sensibly(carved: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(carved)
    model = AutoModelForCausalLM.from_pretrained(carved)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer
