"""Perplexity of a checkpoint as transformers computes it, a sequence at a time."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def perplexity_of(
    directory: Path,
    text: str,
    length: int,
    num_tokens: int,
    change: Callable[[torch.nn.Module], None] | None = None,
) -> float:
    """exp of the mean loss over the first `num_tokens` of `text`, in pieces of `length`.

    `change` may do something to the model before.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    if change is not None:
        change(model)
    ids = AutoTokenizer.from_pretrained(directory)(text)["input_ids"][:num_tokens]
    losses = []
    with torch.inference_mode():
        for start in range(0, len(ids) - length + 1, length):
            piece = torch.tensor([ids[start : start + length]])
            losses.append(float(model(piece, labels=piece).loss))
    return math.exp(sum(losses) / len(losses))
