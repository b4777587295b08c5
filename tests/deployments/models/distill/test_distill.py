"""Tiny targets distilled, interrupted, gone on with, and opened by transformers."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.models.distill.distilling import distill_into
from deployments.models.distill.prompts import Prompt, Prompts
from deployments.models.distill.report import REPORT_NAME, DistillReport
from deployments.models.distill.workplace import place_of
from infra.progress import SILENT, Progress
from tests.deployments.models.carve.tiny_llama import write_tiny_llama
from tests.deployments.models.distill.builders import settings
from tests.deployments.models.fake_converter import RecordingProgress

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

PROMPTS = Prompts(
    "a test",
    training=tuple(Prompt("chat", f"question {letter}") for letter in "abcdefghij"),
    held_out=tuple(Prompt("chat", f"question {letter}") for letter in "xyz"),
)


@contextlib.contextmanager
def no_stage(title: str) -> Iterator[None]:
    yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("target") / "tiny")


def distill(
    source: Path, out_dir: Path, progress: Progress = SILENT, **changes: Any
) -> DistillReport:
    return distill_into(out_dir, source, PROMPTS, settings(**changes), progress, no_stage)


def tensors_in(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file  # noqa: PLC0415 - takes seconds

    return dict(load_file(directory / "model.safetensors"))


def test_the_checkpoint_is_a_llama_with_a_head_of_fewer_tokens(
    tiny: Path, tmp_path: Path
) -> None:
    distill(tiny, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "num_hidden_layers": 1,
        "vocab_size": 256,
        "draft_vocab_size": 40,
        "tie_word_embeddings": False,
    }
    assert {key: config[key] for key in expected} == expected
    tensors = tensors_in(tmp_path / "out")
    layer = {name.removeprefix("model.layers.0.") for name in tensors if "layers" in name}
    assert layer == {
        *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    around = {n: (list(t.shape), str(t.dtype)) for n, t in tensors.items() if "layers" not in n}
    assert around == {
        "model.embed_tokens.weight": ([256, 16], "torch.bfloat16"),
        "model.norm.weight": ([16], "torch.bfloat16"),
        "lm_head.weight": ([40, 16], "torch.bfloat16"),
        "d2t": ([40], "torch.int64"),
    }
    ids = [row + offset for row, offset in enumerate(tensors["d2t"].tolist())]
    assert ids == sorted(set(ids))
    assert 0 <= ids[0] <= ids[-1] < 256


def test_with_the_whole_vocabulary_it_is_a_model_that_transformers_loads(
    tiny: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - takes seconds

    distill(tiny, tmp_path / "out", vocabulary=0)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "draft_vocab_size" not in config
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert (type(model).__name__, {k: v for k, v in info.items() if v}) == (
        "LlamaForCausalLM",
        {},
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama", "attention_bias": True}, "llama"),
        ({"model_type": "mistral", "sliding_window": None}, "llama"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({"model_type": "qwen3", "head_dim": 8}, "qwen3"),
    ],
)
def test_a_draft_of_each_kind_is_one_that_replicas_run(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from deployments.drafts.model.draft_model import Chunk, DraftModel  # noqa: PLC0415

    source = write_tiny_llama(tmp_path / "target", **changes)
    distill(source, tmp_path / "out", vocabulary=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert model.config.model_type == expected
    text = [5, 60, 7, 200, 9]
    draft = DraftModel(tmp_path / "out", kv_bytes=1 << 20)
    pages: list[int] = []
    assert draft.pages.grow(pages, len(text))
    with torch.inference_mode():
        likeliest = model(torch.tensor([text])).logits[0, -1].argmax()
    assert draft.read([Chunk(text, 0, pages)]).token_ids == [int(likeliest)]


def test_untrained_it_has_layers_of_the_target(tiny: Path, tmp_path: Path) -> None:
    report = distill(tiny, tmp_path / "out", num_steps=0, layers=(1,))
    target, draft = tensors_in(tiny), tensors_in(tmp_path / "out")
    for name in ("d2t", "lm_head.weight", "model.norm.weight"):  # for the head see test_lens.py
        del draft[name]
    for name, tensor in draft.items():
        assert tensor.equal(target[name.replace("layers.0", "layers.1")].to(tensor.dtype))
    assert (report.num_steps, report.losses) == (0, [])


def test_training_lowers_the_loss_and_raises_the_acceptance(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.models.distill import distill as module  # noqa: PLC0415 - takes seconds

    # Answers that are trained on are also those measured: of so few nothing else is learnt,
    # and in 8 bits the target would say something else.
    monkeypatch.setattr(module, "has_int8", lambda: False)
    same = Prompts("a test", PROMPTS.training, PROMPTS.training)
    reports = []
    for num_steps in (0, 150):
        chosen = settings(num_steps=num_steps, learning_rate=1e-2, sampled_part=0.0)
        out_dir = tmp_path / str(num_steps)
        reports.append(distill_into(out_dir, tiny, same, chosen, SILENT, no_stage))
    untrained, trained = reports
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    before, after = (report.acceptance["chat"] for report in (untrained, trained))
    assert after.num_places == before.num_places > 0
    assert after.rates[0] > 0.9 > before.rates[0]
    assert trained.beginnings == trained.acceptance  # of answers shorter than a beginning


class Interrupting(RecordingProgress):
    """Interrupts the work when it has reported a stage of this beginning so many times."""

    def __init__(self, stage: str, times: int) -> None:
        super().__init__()
        self._stage = stage
        self._left = times

    def report(self, stage: str, fraction: float | None = None) -> None:
        super().report(stage, fraction)
        self._left -= stage.startswith(self._stage)
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "times"), [("answers", 2), ("training", 1), ("training", 4), ("measuring", 1)]
)
def test_interrupted_anywhere_the_same_call_makes_the_same_draft(
    stage: str, times: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.models.distill.training._SAVE_INTERVAL_S", 0.0)
    whole = distill(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        distill(tiny, tmp_path / "out", Interrupting(stage, times))
    assert not (tmp_path / "out").exists()
    resumed = distill(tiny, tmp_path / "out")
    first, second = tensors_in(tmp_path / "whole"), tensors_in(tmp_path / "out")
    assert all(first[name].equal(second[name]) for name in first)
    assert (resumed.losses, resumed.num_steps) == (whole.losses, 6)
    assert resumed.acceptance == whole.acceptance
    assert not place_of(tmp_path / "out").exists()


class Photographing(RecordingProgress):
    """Copies what lies on the disk at every report, as if the process were killed there."""

    def __init__(self, place: Path, copies: Path) -> None:
        super().__init__()
        self._place = place
        self._copies = copies

    def report(self, stage: str, fraction: float | None = None) -> None:
        super().report(stage, fraction)
        if stage.startswith("training"):
            copy = place_of(self._copies / str(len(self.reports)))
            shutil.copytree(self._place, copy)


def test_killed_anywhere_the_same_call_makes_the_same_draft(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.models.distill.training._SAVE_INTERVAL_S", 0.0)
    out_dir, copies = tmp_path / "out", tmp_path / "copies"
    whole = distill(tiny, out_dir, Photographing(place_of(out_dir), copies))
    places = sorted(copies.iterdir())
    assert len(places) == 6
    first = tensors_in(out_dir)
    for place in places[::2]:
        again = copies / place.name.removeprefix(".").removesuffix(".distilling")
        assert distill(tiny, again).losses == whole.losses
        second = tensors_in(again)
        assert all(first[name].equal(second[name]) for name in first)


def test_what_was_answered_is_not_asked_again(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(tiny, tmp_path / "out", Interrupting("training", 1))
    progress = RecordingProgress()
    distill(tiny, tmp_path / "out", progress)
    assert not [stage for stage in progress.stages if stage.startswith("answers")]


def test_the_report_in_the_directory_says_how_to_do_it_again(
    tiny: Path, tmp_path: Path
) -> None:
    report = distill(tiny, tmp_path / "out", seed=4)
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert written["settings"]["seed"] == 4
    assert (written["source"], written["layers"], written["prompts"]) == ("tiny", [0], "a test")
    assert (written["num_answers"], written["num_steps"]) == ({"chat": 10}, 6)
    assert written["num_answer_tokens"]["chat"] <= 10 * 12
    assert set(written["versions"]) == {"torch", "transformers"}
    acceptance = written["acceptance"]["chat"]
    assert acceptance["mean_accepted"] == report.acceptance["chat"].mean_accepted
    assert len(acceptance["rates"]) == 8
    assert 0.0 < written["coverage"]["chat"] <= 1.0
    for name in ("tokenizer.json", "generation_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny / name).read_bytes()
