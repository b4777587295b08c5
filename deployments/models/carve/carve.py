"""A dense checkpoint carved into a mixture of experts, layer by layer.

Memory: embeddings, one layer and one shard of the output; the residual streams,
4 bytes * hidden size * 28,672 tokens with the usual settings (66 MB at hidden size
576); and while a layer is fitted 12 bytes * num_neurons * 8,192 tokens (150 MB at
1,536 neurons).
"""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoTokenizer

from deployments.models.atomic import write_json
from deployments.models.carve.checkpoint import CheckpointWriter
from deployments.models.carve.dense_model import DenseLayer, DenseModel
from deployments.models.carve.ffn import CarvedFfn
from deployments.models.carve.fit import fit_ffn
from deployments.models.carve.report import REPORT_NAME, CarveReport
from deployments.models.carve.settings import CarveSettings, cut_of
from deployments.models.carve.streams import Streams
from deployments.models.carve.texts import Texts
from deployments.models.carve.tokens import tokens_of
from infra.progress import Progress


def carve(
    source: Path, target: Path, texts: Texts, settings: CarveSettings, progress: Progress
) -> CarveReport:
    """Fill the empty directory `target` with the carved model of the one in `source`.

    The same arguments on the same machine give the same files. Raises
    `ConfigError` if the model cannot be carved so, or a text is too short.
    """
    with torch.no_grad():
        return _carve(source, target, texts, settings, progress)


def _carve(
    source: Path, target: Path, texts: Texts, settings: CarveSettings, progress: Progress
) -> CarveReport:
    progress.report("reading the model", None)
    model = DenseModel(source)
    cut = cut_of(settings, model.config.intermediate_size)
    dtype = getattr(torch, settings.dtype) if settings.dtype else model.stored_dtype
    tokens = tokens_of(AutoTokenizer.from_pretrained(source), texts, settings, model.config)
    streams = Streams(model, tokens, dtype)

    def fit(layer: DenseLayer, inputs: torch.Tensor, targets: torch.Tensor) -> CarvedFfn:
        return fit_ffn(layer, inputs, targets, cut, settings.seed)

    with CheckpointWriter(target, dtype) as writer:
        writer.write_surroundings(model, cut)
        for index, layer in enumerate(model.layers()):
            progress.report("carving", index / model.num_layers)
            writer.write_layer(index, layer, streams.pass_layer(layer, fit))
    progress.report("measuring the perplexity", None)
    report = CarveReport(
        source=source.name,
        versions={name: version(name) for name in ("torch", "transformers")},
        settings=settings,
        cut=cut,
        dtype=str(dtype).removeprefix("torch."),
        text=texts.origin,
        calibration_sha256=_sha256(texts.calibration),
        held_out_sha256=_sha256(texts.held_out),
        num_calibration_tokens=tokens.calibration.numel(),
        num_held_out_tokens=tokens.held_out.numel(),
        perplexity=streams.perplexities(),
    )
    write_json(target / REPORT_NAME, asdict(report))
    return report


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
