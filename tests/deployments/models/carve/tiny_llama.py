"""Llama-like checkpoints of some kilobytes, with random weights and a tokenizer of bytes."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from deployments.models.carve.settings import CarveSettings
from deployments.models.carve.texts import Texts

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SETTINGS: dict[str, Any] = {
    "num_experts": 4,
    "num_active": 2,
    "num_calibration_tokens": 512,
    "num_held_out_tokens": 64,
    "sequence_tokens": 16,
}
TEXTS = Texts("a test", calibration="the quick brown fox. " * 40, held_out="lazy dog " * 20)


def settings(**changes: Any) -> CarveSettings:
    """Settings that fit the tiny model: 8 shared neurons, 4 experts of 4."""
    return CarveSettings(**(SETTINGS | changes))


def write_tiny_llama(
    directory: Path, *, model_type: str = "llama", dtype: str = "float32", **changes: Any
) -> Path:
    """A whole checkpoint directory; `changes` go into its configuration."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import (  # noqa: PLC0415  # noqa: PLC0415
        AutoConfig,
        AutoModelForCausalLM,
        GenerationConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.generation_config = GenerationConfig(eos_token_id=2, temperature=0.2, do_sample=True)
    model.save_pretrained(directory)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bytes(), eos_token=chr(258))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    (directory / "LICENSE").write_text("Do as you like.")
    return directory


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
