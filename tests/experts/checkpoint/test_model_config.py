"""What `config.json` says of routed experts, for each architecture."""

from pathlib import Path
from typing import Any

import pytest

from experts.checkpoint.model_config import moe_config, read_config
from experts.checkpoint.types import MoeConfig
from experts.types import ModelShape
from infra.errors import ConfigError
from tests.experts.checkpoint.tiny_checkpoint import config

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 32,
    "intermediate_size": 99,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 3,
}


def test_all_layers_of_mixtral_have_experts_of_the_dense_size() -> None:
    assert moe_config("m", MIXTRAL) == MoeConfig(
        "m", ModelShape(2, 8, 2, 32, 64), (0, 1), "block_sparse_moe", "w1", "w3", "w2", "silu"
    )


def test_the_first_layers_of_deepseek_are_dense() -> None:
    assert moe_config("m", DEEPSEEK) == MoeConfig(
        "m",
        ModelShape(3, 8, 2, 32, 16),
        (3, 4, 5),
        "mlp",
        "gate_proj",
        "up_proj",
        "down_proj",
        "silu",
    )


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (config("OlmoeForCausalLM"), (0, 1)),
        (config("Qwen2MoeForCausalLM"), (0, 1)),
        (config(), (0, 1)),
        (config(num_hidden_layers=6, decoder_sparse_step=2), (1, 3, 5)),
        (config(num_hidden_layers=4, mlp_only_layers=[1, 2]), (0, 3)),
        (config(num_hidden_layers=4, mlp_only_layers=[3], decoder_sparse_step=2), (1,)),
        (config(num_hidden_layers=2, mlp_only_layers=None), (0, 1)),
        (DEEPSEEK | {"moe_layer_freq": 2}, (4,)),
        (DEEPSEEK | {"first_k_dense_replace": 0, "moe_layer_freq": 4}, (0, 4)),
    ],
)
def test_layers_are_told_apart_as_vllm_tells_them(
    given: dict[str, Any], layers: tuple[int, ...]
) -> None:
    found = moe_config("m", given)
    assert found.transformer_layers == layers
    assert found.shape.num_layers == len(layers)


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_the_number_of_experts_has_several_names(key: str) -> None:
    given = {name: value for name, value in config().items() if name != "num_experts"}
    assert moe_config("m", given | {key: 7}).shape.num_experts == 7


def test_olmoe_has_experts_of_the_size_that_others_give_their_dense_layers() -> None:
    assert moe_config("m", config("OlmoeForCausalLM")).shape.intermediate_size == 99
    assert moe_config("m", config()).shape.intermediate_size == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (config("LlamaForCausalLM"), "my-model is a LlamaForCausalLM: the expert tier knows"),
        (config() | {"architectures": None}, "my-model is a none"),
        (
            config(quantization_config={"quant_method": "fp8"}),
            r"my-model is quantized \(fp8\): the expert tier reads float32",
        ),
        (config(hidden_act="gelu"), "experts with the activation gelu"),
        (config(num_experts=None), "`num_experts` in its config.json is None"),
        (config(hidden_size="4"), "`hidden_size` in its config.json is 4, no positive"),
        (config(mlp_only_layers=[0, 1]), "my-model has no layer with routed experts"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        moe_config("my-model", given)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_without_a_configuration_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)
