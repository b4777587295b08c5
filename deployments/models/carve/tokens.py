"""Texts as sequences of token ids, all of one length."""

from dataclasses import dataclass
from typing import Any

import torch

from deployments.models.carve.settings import CarveSettings
from deployments.models.carve.texts import Texts
from infra.errors import ConfigError


@dataclass(frozen=True)
class Tokens:
    """Shapes: both [num_sequences, length]."""

    calibration: torch.Tensor
    held_out: torch.Tensor


def tokens_of(tokenizer: Any, texts: Texts, settings: CarveSettings, config: Any) -> Tokens:
    """The first tokens of each text, as many as the settings ask for or as there are.

    Sequences are no longer than the model of that `config` takes. Raises
    `ConfigError` if a text has not enough for one, or the tokenizer is not the model's.
    """
    length = min(settings.sequence_tokens, config.max_position_embeddings)
    calibration = _sequences(
        tokenizer, texts.calibration, length, settings.num_calibration_tokens
    )
    held_out = _sequences(tokenizer, texts.held_out, length, settings.num_held_out_tokens)
    if max(calibration.max(), held_out.max()) >= config.vocab_size:
        raise ConfigError(
            f"the tokenizer has ids that are not among the model's {config.vocab_size} tokens; "
            "they do not belong together"
        )
    return Tokens(calibration, held_out)


def _sequences(tokenizer: Any, text: str, length: int, num_tokens: int) -> torch.Tensor:
    ids = tokenizer(text, verbose=False)["input_ids"][:num_tokens]
    num_sequences = len(ids) // length
    if not num_sequences:
        raise ConfigError(
            f"the text is too short: a quarter of it is held out to measure the perplexity, "
            f"and each part needs {length} tokens; one has {len(ids)}"
        )
    return torch.tensor(ids[: num_sequences * length]).view(num_sequences, length)
