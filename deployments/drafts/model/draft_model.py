"""A small causal model that drafts: Llama-like, its keys and values in pages.

vLLM would run it as well, but tells nobody how a sequence is taken back by some tokens and
continued otherwise, which is what drafting does at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from deployments.drafts.model.draft_config import DraftConfig
from deployments.drafts.model.kv_pages import PAGE_TOKENS, KvPages, num_pages_for
from deployments.models.carve.dense_files import TensorFiles


@dataclass(frozen=True)
class Chunk:
    """Tokens that are to be read of one sequence."""

    token_ids: Sequence[int]  # at least one
    start: int
    """How many of the sequence's tokens were read before."""
    pages: Sequence[int]
    """Room for all of them."""


class Said(NamedTuple):
    """The likeliest token after each chunk, and how likely it is. Shape: [num_chunks]."""

    token_ids: list[int]
    chances: list[float]


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer; those of products that have the same input are joined."""

    input_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [num_heads * head + 2 * num_kv_heads * head, hidden]
    qkv_bias: torch.Tensor | None
    out: torch.Tensor  # [hidden, num_heads * head]
    ffn_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 * intermediate, hidden]
    down: torch.Tensor  # [hidden, intermediate]


class _Places(NamedTuple):
    """Where a call reads and writes keys and values.

    Shapes: write [B * Q], read [B, L], mask [B, 1, Q, L], rotation [B, Q, 1, head] of both.
    """

    write: torch.Tensor
    read: torch.Tensor
    mask: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


class DraftModel:
    """Not for several threads at once."""

    def __init__(self, directory: Path, kv_bytes: int, dtype: torch.dtype = torch.float32):
        """Raises ConfigError for a checkpoint that is not whole, or of another kind."""
        self.config = DraftConfig.read(directory)
        config, files = self.config, TensorFiles(directory)
        self._embedding = files.read("model.embed_tokens.weight").to(dtype)
        self._layers = [_read_layer(files, i, dtype) for i in range(config.num_layers)]
        self._norm = files.read("model.norm.weight").to(dtype)
        self._head = (
            self._embedding
            if config.is_head_tied
            else files.read("lm_head.weight").to(dtype).contiguous()
        )
        self._head_to_token = (
            torch.arange(config.head_vocab_size) + files.read_stored("d2t")
            if "d2t" in files
            else None
        )
        size = config.head_size
        self._frequencies = config.rope_theta ** (-torch.arange(0, size, 2).float() / size)
        self.pages = KvPages(config.num_layers, (config.num_kv_heads, size), dtype, kv_bytes)

    def read(self, chunks: Sequence[Chunk]) -> Said:
        """Read all chunks, and say what is likeliest after each."""
        with torch.inference_mode():
            return self._read(chunks)

    def _read(self, chunks: Sequence[Chunk]) -> Said:
        lengths = [len(chunk.token_ids) for chunk in chunks]
        most = max(lengths)
        token_ids = torch.tensor([_padded(chunk.token_ids, most) for chunk in chunks])
        places = self._places(chunks, most)
        hidden = self._embedding[token_ids]
        for number, layer in enumerate(self._layers):
            hidden = self._through(number, layer, hidden, places)
        last = hidden[torch.arange(len(chunks)), torch.tensor(lengths) - 1]
        logits = functional.linear(self._normed(last, self._norm), self._head).float()
        best, rows = logits.max(dim=-1)
        chances = (best - logits.logsumexp(dim=-1)).exp()
        found = rows if self._head_to_token is None else self._head_to_token[rows]
        return Said(found.tolist(), chances.tolist())

    def _through(
        self, number: int, layer: _Layer, hidden: torch.Tensor, places: _Places
    ) -> torch.Tensor:
        """One layer. Shape: [B, Q, hidden]."""
        attended = self._attended(number, layer, self._normed(hidden, layer.input_norm), places)
        hidden = hidden + functional.linear(attended, layer.out)
        both = functional.linear(self._normed(hidden, layer.ffn_norm), layer.gate_up)
        gate, up = both.chunk(2, dim=-1)
        return hidden + functional.linear(functional.silu(gate) * up, layer.down)

    def _attended(
        self, number: int, layer: _Layer, hidden: torch.Tensor, places: _Places
    ) -> torch.Tensor:
        """What the tokens find in those before them. Shape: [B, Q, num_heads * head]."""
        config, size = self.config, self.config.head_size
        batch, num_queries, _ = hidden.shape
        qkv = functional.linear(hidden, layer.qkv, layer.qkv_bias)
        heads = qkv.view(batch, num_queries, -1, size)
        num_rotated = config.num_heads + config.num_kv_heads
        rotated = _rotated(heads[:, :, :num_rotated], places)
        keys, values = self.pages.keys[number], self.pages.values[number]
        new_keys, new_values = rotated[:, :, config.num_heads :], heads[:, :, num_rotated:]
        keys[places.write] = new_keys.reshape(-1, config.num_kv_heads, size)
        values[places.write] = new_values.reshape(-1, config.num_kv_heads, size)
        # The heads that share keys are read as more queries of the same head.
        group = config.num_heads // config.num_kv_heads
        queries = rotated[:, :, : config.num_heads]
        queries = queries.reshape(batch, num_queries, config.num_kv_heads, group, size)
        queries = queries.permute(0, 2, 3, 1, 4).reshape(
            batch, config.num_kv_heads, group * num_queries, size
        )
        found = functional.scaled_dot_product_attention(
            queries,
            keys[places.read].transpose(1, 2),
            values[places.read].transpose(1, 2),
            attn_mask=places.mask.repeat(1, 1, group, 1),
        )
        found = found.view(batch, config.num_kv_heads, group, num_queries, size)
        return found.permute(0, 3, 1, 2, 4).reshape(batch, num_queries, -1)

    def _places(self, chunks: Sequence[Chunk], most: int) -> _Places:
        num_pages = max(num_pages_for(chunk.start + len(chunk.token_ids)) for chunk in chunks)
        pages = torch.tensor([_padded(chunk.pages[:num_pages], num_pages) for chunk in chunks])
        starts = torch.tensor([chunk.start for chunk in chunks])[:, None]
        counts = torch.tensor([len(chunk.token_ids) for chunk in chunks])[:, None]
        steps = torch.arange(most)[None]
        positions = starts + steps
        in_page = torch.arange(PAGE_TOKENS)
        read = (pages[:, :, None] * PAGE_TOKENS + in_page).view(len(chunks), -1)
        is_token = steps < counts
        write = torch.where(is_token, read.gather(1, positions.clamp(max=read.shape[1] - 1)), 0)
        mask = torch.arange(read.shape[1]) <= positions[:, :, None]
        angles = positions[:, :, None] * self._frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, :, None]
        dtype = self._embedding.dtype
        return _Places(
            write.view(-1), read, mask[:, None], angles.cos().to(dtype), angles.sin().to(dtype)
        )

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.config.rms_norm_eps)


def _padded(numbers: Sequence[int], length: int) -> list[int]:
    return [*numbers, *[0] * (length - len(numbers))]


def _rotated(heads: torch.Tensor, places: _Places) -> torch.Tensor:
    """Turned by their positions. Shape: [B, Q, num_heads, head]."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return heads * places.cos + turned * places.sin


def _read_layer(files: TensorFiles, number: int, dtype: torch.dtype) -> _Layer:
    prefix = f"model.layers.{number}."

    def weight(name: str) -> torch.Tensor:
        return files.read(f"{prefix}{name}.weight").to(dtype)

    biases = [f"{prefix}self_attn.{name}_proj.bias" for name in "qkv"]
    bias = None
    if biases[0] in files:
        bias = torch.cat([files.read(name) for name in biases]).to(dtype)
    return _Layer(
        input_norm=weight("input_layernorm"),
        qkv=torch.cat([weight(f"self_attn.{name}_proj") for name in "qkv"]),
        qkv_bias=bias,
        out=weight("self_attn.o_proj"),
        ffn_norm=weight("post_attention_layernorm"),
        gate_up=torch.cat([weight("mlp.gate_proj"), weight("mlp.up_proj")]),
        down=weight("mlp.down_proj"),
    )
