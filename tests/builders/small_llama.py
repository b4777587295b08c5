"""A small Llama of random numbers behind the built-in model's tokenizer, as a GGUF file.

For tests in which it does not matter what is said, as long as every token of it arrives: a
step takes milliseconds, and each token depends on all before it.
"""

from pathlib import Path

import gguf
import numpy as np

from deployments.models.builtin import NAME_TO_BUILTIN, find_builtin

NUM_LAYERS, NUM_HEADS, HEAD, CONTEXT = 4, 4, 32, 4096
HIDDEN, INTERMEDIATE = NUM_HEADS * HEAD, 256
# Each layer adds about as much as the token itself: else the last token decides alone.
SCALE = 0.1


def write_small_llama(path: Path) -> Path:
    """Write the file, of 15 MB; always the same."""
    builtin = find_builtin(NAME_TO_BUILTIN["smollm2-135m-instruct"])
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    num_tokens = _copy_tokenizer(gguf.GGUFReader(builtin), writer)
    _add_tensors(writer, num_tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Number of tokens of the vocabulary."""
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            item = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)
    return len(source.fields["tokenizer.ggml.tokens"].data)


def _add_tensors(writer: gguf.GGUFWriter, num_tokens: int) -> None:
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        noise = random.standard_normal(shape, dtype=np.float32) * np.float32(SCALE)
        # A vector is a norm's weights.
        writer.add_tensor(f"{name}.weight", noise + np.float32(len(shape) == 1))

    add("token_embd", num_tokens, HIDDEN)
    add("output_norm", HIDDEN)
    for layer in range(NUM_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", HIDDEN, HIDDEN)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", HIDDEN)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}", INTERMEDIATE, HIDDEN)
        add(f"blk.{layer}.ffn_down", HIDDEN, INTERMEDIATE)
