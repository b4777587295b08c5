"""A draft model as vLLM's own `draft_model` takes it: with a head over the whole vocabulary."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from deployments.models.tensor_files import TensorFiles


def plain_draft(draft: Path, target: Path, folder: Path) -> Path:
    """The draft, written to the folder.

    Tokens that its head has not get the row of the last one that it has, a rare one: they are
    said only where that would be, and hardly change what is likeliest.
    """
    shutil.copytree(draft, folder, dirs_exist_ok=True)
    config = json.loads((draft / "config.json").read_bytes())
    if config.pop("draft_vocab_size", None) is None:
        return folder
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    files = TensorFiles(target)
    name = "lm_head.weight" if "lm_head.weight" in files else "model.embed_tokens.weight"
    num_tokens, rows = len(files.read_stored(name)), tensors["lm_head.weight"]
    head = rows[-1].repeat(num_tokens, 1)
    head[torch.arange(len(rows)) + tensors.pop("d2t")] = rows
    tensors["lm_head.weight"] = head
    save_file(tensors, path, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
