"""The random mixture of experts for benches: its files, and that engines take them."""

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from infra.errors import ConfigError
from tests.bench.big_moe import INDEX_NAME, MoeSizes, config_of, write_big_moe
from tests.bench.random_tensors import RandomTensors, to_bfloat16

TINY = MoeSizes(
    hidden=128, layers=2, experts=8, active=2, expert_size=64, shared_size=64, vocabulary=512
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big_moe") / "tiny"
    write_big_moe(folder, TINY, seed=0)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor, by the files themselves."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            assert not found.keys() & slices.keys()
            found |= {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    return found


def test_the_usual_model_has_a_billion_parameters_nearly_all_of_them_in_experts() -> None:
    sizes = MoeSizes()
    in_experts = sizes.layers * sizes.experts * 3 * sizes.hidden * sizes.expert_size
    assert sizes.num_parameters == 985_920_512
    assert in_experts / sizes.num_parameters == pytest.approx(0.842, abs=1e-3)


def test_the_index_names_each_tensor_of_each_file(tiny: Path) -> None:
    index = json.loads((tiny / INDEX_NAME).read_text())
    found = stored_shapes(tiny)
    assert index["weight_map"].keys() == found.keys()
    assert {dtype for dtype, _ in found.values()} == {"BF16"}
    assert sum(prod(shape) for _, shape in found.values()) == TINY.num_parameters
    assert index["metadata"] == {"total_size": 2 * TINY.num_parameters}
    assert Counter(index["weight_map"].values()).keys() == {
        f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)
    }
    assert json.loads((tiny / "config.json").read_text()) == config_of(TINY)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(
    tiny: Path, tmp_path: Path
) -> None:
    write_big_moe(tmp_path / "again", TINY, seed=0)
    write_big_moe(tmp_path / "other", TINY, seed=1)
    assert contents(tmp_path / "again") == contents(tiny)
    files = "config.json", "model-00001-of-00003.safetensors"
    same = [contents(tmp_path / "other")[name] == contents(tiny)[name] for name in files]
    assert same == [True, False]


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        write_big_moe(tmp_path / "mine", TINY, seed=0)


def test_a_hidden_size_that_does_not_divide_into_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="1000 is no multiple of 128"):
        MoeSizes(hidden=1000)


def test_numbers_are_normal_and_rounded_to_the_nearest() -> None:
    drawn = RandomTensors((0,)).draw((300, 300), 1.0, 0.5)
    values = (drawn.astype(np.uint32) << 16).view(np.float32)
    assert (values.mean(), values.std()) == pytest.approx((1.0, 0.5), abs=0.01)
    assert np.mean(abs(values - 1) < 0.5) == pytest.approx(0.683, abs=0.02)
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-7, 0.0], np.float32)
    assert to_bfloat16(ties).tolist() == [0x3F80, 0x3F82, 0xBF81, 0]


@pytest.mark.model
@pytest.mark.timeout(300)
def test_transformers_misses_nothing_and_the_gate_chooses_every_expert(tiny: Path) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    model, ids = opened(tiny), torch.arange(400).view(4, 100)
    with torch.no_grad():
        answer = model(ids, output_router_logits=True)
    for logits in answer.router_logits:
        chosen = Counter(logits.topk(TINY.active).indices.flatten().tolist())
        assert len(chosen) == TINY.experts
        assert max(chosen.values()) < len(ids.flatten()) * TINY.active / 2
    # Neither a copy of its input nor one token for all.
    best = answer.logits.argmax(-1)
    assert (best == ids).float().mean() < 0.05
    assert len(best.unique()) > 100


def opened(folder: Path) -> Any:
    """The model in float32, of which every tensor must be there."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert (type(model).__name__, {k: v for k, v in info.items() if v}) == (
        "Qwen2MoeForCausalLM",
        {},
    )
    return model
