"""What the converter makes of files that are made to be awkward."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.models.gguf_converter import GgufConverter
from infra.errors import ConfigError
from tests.deployments.models.fake_converter import RecordingProgress
from tests.deployments.models.tiny_gguf import CONTROLS, TOKENS, write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

IM_END = TOKENS.index("<|im_end|>")


def convert(tmp_path: Path, **changes: Any) -> Path:
    """The directory that the tiny model, changed so, is converted to."""
    source = write_tiny_gguf(tmp_path / "tiny.gguf", **changes)
    target = tmp_path / "out"
    target.mkdir()
    GgufConverter().convert(source, target, RecordingProgress())
    return target


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def encode(directory: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

    ids: list[int] = AutoTokenizer.from_pretrained(directory).encode(text)
    return ids


def test_progress_goes_through_the_stages_with_fractions(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "out").mkdir()
    progress = RecordingProgress()
    GgufConverter().convert(source, tmp_path / "out", progress)
    assert progress.stages == [
        "loading the converter",
        "building the tokenizer",
        "reading the configuration",
        "dequantizing",
        "writing the checkpoint",
    ]
    fractions = [share for stage, share in progress.reports if stage == "dequantizing"]
    assert fractions == sorted(fractions, key=lambda share: share or 0.0)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_weights_are_bfloat16_and_the_config_says_so(tmp_path: Path) -> None:
    from safetensors import safe_open  # noqa: PLC0415 - takes seconds

    directory = convert(tmp_path)
    config = read_json(directory / "config.json")
    assert (config["dtype"], config["architectures"]) == ("bfloat16", ["LlamaForCausalLM"])
    assert "quantization_config" not in config
    with safe_open(directory / "model.safetensors", "pt") as tensors:
        kinds = {str(tensors.get_tensor(name).dtype) for name in tensors.keys()}  # noqa: SIM118
    assert kinds == {"torch.bfloat16"}


def test_an_unsupported_architecture_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="architecture 'rwkv7'") as caught:
        convert(tmp_path, architecture="rwkv7")
    for name in ("llama", "gemma3", "qwen3moe", "qwen35moe"):
        assert name in caught.value.message


def test_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one part of 3"):
        convert(tmp_path, metadata={"split.count": 3})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="damaged or cut short"):
        GgufConverter().convert(source, tmp_path / "out", RecordingProgress())


def test_a_tensor_that_the_model_has_no_place_for_is_refused(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": [1.0] * 8}
    with pytest.raises(
        ConfigError, match=r"no place in LlamaForCausalLM, blk\.0\.attn_q\.bias"
    ):
        convert(tmp_path, tensors=extra)


def test_an_unknown_way_of_splitting_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="splits text in the way 'deepseek-v9'"):
        convert(tmp_path, pre="deepseek-v9")


def test_rope_divisors_of_llama_3_reach_the_configuration(tmp_path: Path) -> None:
    # Both frequencies of a head of size 4 are too fast to be slowed down.
    divisors = {"rope_freqs.weight": [1.0, 1.0]}
    config = read_json(convert(tmp_path, tensors=divisors) / "config.json")
    assert config["rope_parameters"] == {
        "factor": 1.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 10000.0,
        "rope_type": "llama3",
    }


def test_rope_divisors_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not Llama 3's"):
        convert(tmp_path, tensors={"rope_freqs.weight": [8.0, 8.0]})


def test_linear_rope_scaling_reaches_the_configuration(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    config = read_json(convert(tmp_path, metadata=scaling) / "config.json")
    assert config["rope_parameters"] == {
        "factor": 4.0,
        "rope_theta": 10000.0,
        "rope_type": "linear",
    }


def test_the_end_of_a_turn_in_the_chat_template_ends_outputs(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    directory = convert(tmp_path, metadata={"tokenizer.chat_template": template})
    assert read_json(directory / "generation_config.json")["eos_token_id"] == [1, IM_END]
    assert (directory / "chat_template.jinja").read_text() == template


def test_a_model_without_chat_template_ends_at_its_own_token_only(tmp_path: Path) -> None:
    directory = convert(tmp_path)
    assert read_json(directory / "generation_config.json")["eos_token_id"] == 1
    assert not (directory / "chat_template.jinja").exists()


def test_the_tokenizer_has_no_token_that_the_model_lacks(tmp_path: Path) -> None:
    directory = convert(tmp_path)
    backend = read_json(directory / "tokenizer.json")
    added = [token["content"] for token in backend["added_tokens"]]
    assert added == CONTROLS
    assert max(backend["model"]["vocab"].values()) == len(TOKENS) - 1
    assert read_json(directory / "config.json")["vocab_size"] == len(TOKENS)


def test_digits_are_set_apart_where_the_file_says_so(tmp_path: Path) -> None:
    directory = convert(tmp_path, pre="smollm")
    backend = read_json(directory / "tokenizer.json")
    kinds = [step["type"] for step in backend["pre_tokenizer"]["pretokenizers"]]
    assert kinds == ["Digits", "ByteLevel"]


def test_a_prompt_begins_and_ends_as_the_file_says(tmp_path: Path) -> None:
    hello = TOKENS.index("hell"), TOKENS.index("o")
    marks = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert encode(convert(tmp_path, metadata=marks), "hello") == [0, *hello, 1]


def test_a_vocabulary_of_llama_3_keeps_whole_words_and_begins_prompts(tmp_path: Path) -> None:
    assert encode(convert(tmp_path, pre="llama-bpe"), "hello") == [0, TOKENS.index("hello")]
