"""GGUF files of a few kilobytes, for what no real file at hand shows."""

from pathlib import Path
from typing import Any

import gguf

HIDDEN, HEADS, INTERMEDIATE = 8, 2, 16
CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
CONTROLS = ["<s>", "</s>", "<|im_end|>"]
BYTES = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
BYTES += [chr(256 + index) for index in range(68)]
TOKENS = [*CONTROLS, *BYTES, "he", "ll", "hell", "hello"]

NAME_TO_SHAPE = {
    "token_embd.weight": (len(TOKENS), HIDDEN),
    "output_norm.weight": (HIDDEN,),
    "blk.0.attn_norm.weight": (HIDDEN,),
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_v.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_norm.weight": (HIDDEN,),
    "blk.0.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
    "blk.0.ffn_up.weight": (INTERMEDIATE, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, INTERMEDIATE),
}


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    pre: str = "gpt-2",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, list[float]] | None = None,
) -> Path:
    """A one-layer model with a byte-level vocabulary; `metadata` and `tensors` are added."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_tokenizer(writer, pre)
    for key, value in (metadata or {}).items():
        _add(writer, key, value)
    _add_tensors(writer, tensors or {})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL if token in CONTROLS else NORMAL for token in TOKENS])
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _add(writer: gguf.GGUFWriter, key: str, value: str | float) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _add_tensors(writer: gguf.GGUFWriter, more: dict[str, list[float]]) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    generator = torch.Generator().manual_seed(0)
    for name, shape in NAME_TO_SHAPE.items():
        writer.add_tensor(name, torch.randn(shape, generator=generator).numpy())
    for name, values in more.items():
        writer.add_tensor(name, torch.tensor(values).numpy())
