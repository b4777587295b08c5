"""Tiny Llama-like models carved, and opened by transformers as Qwen2-MoE."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.models.carve.carving import carve_into
from deployments.models.carve.report import REPORT_NAME, CarveReport
from deployments.models.carve.settings import Cut
from infra.errors import ConfigError
from infra.progress import SILENT
from tests.deployments.models.carve.tiny_llama import (
    TEMPLATE,
    TEXTS,
    settings,
    write_tiny_llama,
)
from tests.deployments.models.fake_converter import RecordingProgress

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

FAMILIES: list[dict[str, Any]] = [
    {"model_type": "llama"},
    {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    {"model_type": "mistral", "sliding_window": None},
    {"model_type": "qwen2"},  # biases in attention
    {"model_type": "llama", "attention_dropout": 0.5},  # in training alone
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("dense") / "tiny")


def carve(source: Path, out_dir: Path, **changes: Any) -> CarveReport:
    return carve_into(out_dir, source, TEXTS, settings(**changes), SILENT)


def logits(directory: Path, kind: str) -> Any:
    """Shape: [2, 20, vocab_size]."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert (type(model).__name__, {k: v for k, v in info.items() if v}) == (kind, {})
    ids = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_experts_active_it_is_the_dense_model(
    family: dict[str, Any], tmp_path: Path
) -> None:
    dense = write_tiny_llama(tmp_path / "dense", **family)
    report = carve(dense, tmp_path / "out", num_active=4)
    found = logits(tmp_path / "out", "Qwen2MoeForCausalLM")
    kind = f"{family['model_type'].capitalize()}ForCausalLM"
    assert (found - logits(dense, kind)).abs().max() < 1e-5
    perplexity = report.perplexity
    assert perplexity.all_active == pytest.approx(perplexity.dense, rel=1e-5)
    assert perplexity.carved == pytest.approx(perplexity.dense, rel=1e-5)


def test_what_is_measured_is_what_the_checkpoint_gives(tiny: Path, tmp_path: Path) -> None:
    from tests.reference.perplexity import perplexity_of  # noqa: PLC0415 - takes seconds

    report = carve(tiny, tmp_path / "out", num_active=2)
    for directory, claimed in (
        (tiny, report.perplexity.dense),
        (tmp_path / "out", report.perplexity.carved),
    ):
        found = perplexity_of(directory, TEXTS.held_out, length=16, num_tokens=64)
        assert found == pytest.approx(claimed, rel=1e-4)
    assert report.perplexity.carved != pytest.approx(report.perplexity.dense, rel=1e-3)


def test_each_neuron_is_in_one_place_with_its_weights(tiny: Path, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415 - takes seconds
    from safetensors.torch import load_file  # noqa: PLC0415

    carve(tiny, tmp_path / "out", num_active=2)
    dense, carved = (load_file(path / "model.safetensors") for path in (tiny, tmp_path / "out"))
    for layer in (0, 1):
        prefix = f"model.layers.{layer}.mlp."
        places = ["shared_expert", *(f"experts.{expert}" for expert in range(4))]
        for part in ("gate_proj", "up_proj"):
            rows = [carved[f"{prefix}{place}.{part}.weight"] for place in places]
            assert [len(row) for row in rows] == [8, 4, 4, 4, 4]
            found = sorted(torch.cat(rows).tolist())
            assert found == sorted(dense[f"{prefix}{part}.weight"].tolist())
        assert carved[f"{prefix}gate.weight"].shape == (4, 16)
        assert not carved[f"{prefix}shared_expert_gate.weight"].any()
        assert carved[f"{prefix}shared_expert_gate.weight"].shape == (1, 16)
        for name in ("q_proj", "k_proj", "v_proj"):
            assert not carved[f"model.layers.{layer}.self_attn.{name}.bias"].any()


def test_the_gate_weighs_active_experts_nearly_the_same_and_does_not_always_choose_the_same(
    tiny: Path, tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415 - takes seconds
    from safetensors.torch import load_file  # noqa: PLC0415

    carve(tiny, tmp_path / "out", num_active=2)
    gate = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.gate.weight"]
    inputs = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    top, chosen = (inputs @ gate.T).softmax(-1).topk(2)
    assert ((top / top.sum(1, keepdim=True)) - 0.5).abs().max() < 0.1
    assert set(chosen.flatten().tolist()) == {0, 1, 2, 3}


def test_tokenizer_template_generation_defaults_and_licence_travel_along(
    tiny: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

    carve(tiny, tmp_path / "out")
    for name in ("tokenizer.json", "generation_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.chat_template, tokenizer.decode(tokenizer.encode("Hé"))) == (
        TEMPLATE,
        "Hé",
    )


def test_the_same_seed_gives_the_same_files_and_another_one_does_not(
    tiny: Path, tmp_path: Path
) -> None:
    reports = [
        carve(tiny, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("a", "b", "c")
    ]
    assert contents[0] == contents[1]
    assert contents[0]["model.safetensors"] != contents[2]["model.safetensors"]
    assert reports[0] == reports[1]


def test_the_report_in_the_directory_says_how_to_do_it_again(
    tiny: Path, tmp_path: Path
) -> None:
    report = carve(tiny, tmp_path / "out", num_active=3, seed=5)
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert written["settings"] == {
        "num_experts": 4,
        "num_active": 3,
        "shared_size": None,
        "seed": 5,
        "dtype": None,
        "num_calibration_tokens": 512,
        "num_held_out_tokens": 64,
        "sequence_tokens": 16,
    }
    assert written["cut"] == {
        "shared_size": 8,
        "num_experts": 4,
        "expert_size": 4,
        "num_active": 3,
    }
    assert (written["source"], written["dtype"]) == ("tiny", "float32")
    assert (written["text"], set(written["versions"])) == ("a test", {"torch", "transformers"})
    assert (written["num_calibration_tokens"], written["num_held_out_tokens"]) == (512, 64)
    assert written["perplexity"]["carved"] == report.perplexity.carved


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", None), ("float32", "bfloat16")])
def test_weights_are_written_in_the_sources_dtype_or_in_that_asked_for(
    dtype: str, wanted: str | None, tmp_path: Path
) -> None:
    from safetensors import safe_open  # noqa: PLC0415 - takes seconds

    source = write_tiny_llama(tmp_path / "dense", dtype=dtype)
    carve(source, tmp_path / "out", dtype=wanted)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as tensors:
        kinds = {str(tensors.get_tensor(name).dtype) for name in tensors.keys()}  # noqa: SIM118
    assert kinds == {"torch.bfloat16"}


def test_a_model_of_several_shards_is_the_same_model(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carve(tiny, tmp_path / "one")
    monkeypatch.setattr("deployments.models.carve.checkpoint._SHARD_BYTES", 8000)
    carve(tiny, tmp_path / "many")
    shards = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    one, many = (logits(tmp_path / name, "Qwen2MoeForCausalLM") for name in ("one", "many"))
    assert one.equal(many)
    # Read back as a source would be, by its shards.
    with pytest.raises(ConfigError, match="of type 'qwen2_moe' cannot be carved"):
        carve(tmp_path / "many", tmp_path / "again")


def test_a_carve_that_is_interrupted_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    class Interrupting(RecordingProgress):
        def report(self, stage: str, fraction: float | None = None) -> None:
            super().report(stage, fraction)
            if fraction == 0.5:
                raise KeyboardInterrupt

    progress = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        carve_into(tmp_path / "out", tiny, TEXTS, settings(), progress)
    assert progress.reports[-1] == ("carving", 0.5)
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_through_the_layers(tiny: Path, tmp_path: Path) -> None:
    progress = RecordingProgress()
    carve_into(tmp_path / "out", tiny, TEXTS, settings(), progress)
    assert progress.reports == [
        ("loading the carver", None),
        ("reading the model", None),
        ("carving", 0.0),
        ("carving", 0.5),
        ("measuring the perplexity", None),
    ]


def test_the_neurons_that_contribute_most_are_shared_and_the_others_evenly_divided() -> None:
    import torch  # noqa: PLC0415 - takes seconds

    from deployments.models.carve.dense_model import DenseLayer  # noqa: PLC0415
    from deployments.models.carve.fit import partition_of  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    neurons = torch.randn(64, 24, generator=generator)
    neurons[:, 5:13] *= 10
    down = torch.ones(16, 24)
    layer = DenseLayer(None, torch.empty(24, 16), torch.empty(24, 16), down)
    partition = partition_of(layer, neurons, Cut(8, 4, 4, 2), seed=0)
    partition.check_invariants()
    assert partition.shared.tolist() == list(range(5, 13))
    assert partition.experts.shape == (4, 4)
    assert partition.expert_of()[partition.experts[2]].tolist() == [2, 2, 2, 2]
