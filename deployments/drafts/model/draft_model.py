"""A small causal model that drafts: Llama-like, its keys and values in pages.

vLLM would run it as well, but tells nobody how a sequence is taken back by some tokens and
continued otherwise, which is what drafting does at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from deployments.drafts.model.draft_config import EMBEDDING, DraftConfig
from deployments.drafts.model.few_rows import FewRows, Floats, Rows
from deployments.drafts.model.kv_pages import PAGE_TOKENS, KvPages, num_pages_for
from deployments.drafts.model.weights8 import read_layers
from deployments.models.products import Product, full_product, has_int8, int8_product
from deployments.models.tensor_files import TensorFiles
from router.speculation.settings import DraftDevice, DraftPrecision


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


class _Place(NamedTuple):
    """Where a model's weights are, and of what type."""

    device: DraftDevice
    dtype: torch.dtype
    is_int8: bool

    def put(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self.device, self.dtype).contiguous()

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Product:
        if self.is_int8:
            return int8_product(weight, bias)
        return full_product(self.put(weight), None if bias is None else self.put(bias))

    def numbers(self, rows: list[Any]) -> torch.Tensor:
        return torch.tensor(rows, device=self.device)


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer; those of products that have the same input are joined."""

    input_norm: torch.Tensor  # [hidden]
    qkv: Product  # hidden -> (num_heads + 2 * num_kv_heads) * head
    head_norms: torch.Tensor | None  # [num_heads + num_kv_heads, head]
    out: Product  # num_heads * head -> hidden
    ffn_norm: torch.Tensor  # [hidden]
    gate_up: Product  # hidden -> 2 * intermediate
    down: Product  # intermediate -> hidden


class _Places(NamedTuple):
    """Where a call reads and writes keys and values.

    Shapes: write [B * Q], read [B, L], mask [B, 1, group * Q, L], cos and sin
    [B, Q, 1, head].
    """

    write: torch.Tensor
    read: torch.Tensor
    mask: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


class DraftModel:
    """Not for several threads at once."""

    def __init__(
        self,
        directory: Path,
        kv_bytes: int,
        device: DraftDevice = "cpu",
        precision: DraftPrecision = "full",
    ) -> None:
        """Raises ConfigError for a checkpoint that is not whole, or of another kind.

        `full` is float32 on CPUs, of which many are slower in bfloat16, else bfloat16.
        """
        self.config = DraftConfig.read(directory)
        config, files = self.config, TensorFiles(directory)
        is_int8 = precision == "int8" and device == "cpu" and has_int8()
        place = _Place(device, torch.float32 if device == "cpu" else torch.bfloat16, is_int8)
        self._place = place
        self._embedding = place.put(files.read(EMBEDDING))
        self._layers = [_read_layer(files, i, place, config) for i in range(config.num_layers)]
        self._norm = place.put(files.read("model.norm.weight"))
        self._head = place.product(files.read(config.head_name))
        self._head_to_token: torch.Tensor | None = None
        if "d2t" in files:
            rows = torch.arange(config.head_vocab_size)
            self._head_to_token = (rows + files.read_stored("d2t")).to(device)
        self._frequencies = config.rotary.frequencies(config.head_size).to(device)
        shape = (config.num_kv_heads, config.head_size)
        self.pages = KvPages(config.num_layers, shape, place.dtype, kv_bytes, device)
        self._few: FewRows | None = None
        if is_int8:
            keys, values = self.pages.keys.numpy(), self.pages.values.numpy()
            layers = read_layers(files, config)
            self._few = FewRows(layers, keys, values, self._frequencies.numpy())

    def read(self, chunks: Sequence[Chunk]) -> Said:
        """Read all chunks, and say what is likeliest after each."""
        with torch.inference_mode():
            return self._read(chunks)

    def _read(self, chunks: Sequence[Chunk]) -> Said:
        lengths = [len(chunk.token_ids) for chunk in chunks]
        if self._few is not None and self._few.is_quicker(
            sum(lengths), torch.get_num_threads()
        ):
            said, likely = self._few.read(*self._rows(chunks))
            return Said(self._tokens(torch.from_numpy(said).long()), likely.tolist())
        most = max(lengths)
        token_ids = self._place.numbers([_padded(chunk.token_ids, most) for chunk in chunks])
        places = self._places(chunks, most)
        hidden = self._embedding[token_ids]
        for number, layer in enumerate(self._layers):
            hidden = self._through(number, layer, hidden, places)
        ends = [(row, length - 1) for row, length in enumerate(lengths)]
        last = hidden[self._place.numbers(ends).unbind(1)]
        logits = self._head(self._normed(last, self._norm)).float()
        best, rows = logits.max(dim=-1)
        chances = (best - logits.logsumexp(dim=-1)).exp()
        return Said(self._tokens(rows), chances.tolist())

    def _tokens(self, rows: torch.Tensor) -> list[int]:
        """Of rows of the head."""
        if self._head_to_token is not None:
            rows = self._head_to_token[rows]
        found: list[int] = rows.tolist()
        return found

    def _rows(self, chunks: Sequence[Chunk]) -> tuple[Floats, Rows]:
        """Their embedded tokens, and where they are."""
        token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        ends = np.cumsum([len(chunk.token_ids) for chunk in chunks], dtype=np.int32)
        positions = [
            np.arange(chunk.start, chunk.start + len(chunk.token_ids), dtype=np.int32)
            for chunk in chunks
        ]
        numbers = [np.full(len(of), i, dtype=np.int32) for i, of in enumerate(positions)]
        pages = np.zeros((len(chunks), max(len(chunk.pages) for chunk in chunks)), np.int32)
        for number, chunk in enumerate(chunks):
            pages[number, : len(chunk.pages)] = chunk.pages
        rows = Rows(np.concatenate(positions), np.concatenate(numbers), pages, ends - 1)
        return self._embedding.numpy()[token_ids], rows

    def _through(
        self, number: int, layer: _Layer, hidden: torch.Tensor, places: _Places
    ) -> torch.Tensor:
        """One layer. Shape: [B, Q, hidden]."""
        attended = self._attended(number, layer, self._normed(hidden, layer.input_norm), places)
        hidden = hidden + layer.out(attended)
        gate, up = layer.gate_up(self._normed(hidden, layer.ffn_norm)).chunk(2, dim=-1)
        return hidden + layer.down(functional.silu(gate) * up)

    def _attended(
        self, number: int, layer: _Layer, hidden: torch.Tensor, places: _Places
    ) -> torch.Tensor:
        """What the tokens find in those before them. Shape: [B, Q, num_heads * head]."""
        config, size = self.config, self.config.head_size
        batch, num_queries, _ = hidden.shape
        heads = layer.qkv(hidden).view(batch, num_queries, -1, size)
        num_rotated = config.num_heads + config.num_kv_heads
        turning = heads[:, :, :num_rotated]
        if layer.head_norms is not None:
            turning = self._normed(turning) * layer.head_norms
        rotated = _rotated(turning, places)
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
            attn_mask=places.mask,
        )
        found = found.view(batch, config.num_kv_heads, group, num_queries, size)
        return found.permute(0, 3, 1, 2, 4).reshape(batch, num_queries, -1)

    def _places(self, chunks: Sequence[Chunk], most: int) -> _Places:
        num_pages = max(num_pages_for(chunk.start + len(chunk.token_ids)) for chunk in chunks)
        place = self._place
        pages = place.numbers([_padded(chunk.pages[:num_pages], num_pages) for chunk in chunks])
        starts = place.numbers([chunk.start for chunk in chunks])[:, None]
        counts = place.numbers([len(chunk.token_ids) for chunk in chunks])[:, None]
        steps = torch.arange(most, device=place.device)[None]
        positions = starts + steps
        in_page = torch.arange(PAGE_TOKENS, device=place.device)
        read = (pages[:, :, None] * PAGE_TOKENS + in_page).view(len(chunks), -1)
        is_token = steps < counts
        write = torch.where(is_token, read.gather(1, positions.clamp(max=read.shape[1] - 1)), 0)
        mask = torch.arange(read.shape[1], device=place.device) <= positions[:, :, None]
        angles = positions[:, :, None] * self._frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, :, None]
        cos, sin = angles.cos().to(place.dtype), angles.sin().to(place.dtype)
        # Once for each of the heads that are read as queries of the same head.
        mask = mask.repeat(1, self.config.num_heads // self.config.num_kv_heads, 1)
        return _Places(write.view(-1), read, mask[:, None], cos, sin)

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return functional.rms_norm(hidden, hidden.shape[-1:], weight, self.config.rms_norm_eps)


def _padded(numbers: Sequence[int], length: int) -> list[int]:
    return [*numbers, *[0] * (length - len(numbers))]


def _rotated(heads: torch.Tensor, places: _Places) -> torch.Tensor:
    """Turned by their positions. Shape: [B, Q, num_heads, head]."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return heads * places.cos + turned * places.sin


def _read_layer(files: TensorFiles, number: int, place: _Place, config: DraftConfig) -> _Layer:
    prefix = f"model.layers.{number}."

    def norm(name: str) -> torch.Tensor:
        return place.put(files.read(f"{prefix}{name}.weight"))

    def product(*names: str) -> Product:
        """Of several weights that have the same input."""
        joined = torch.cat([files.read(f"{prefix}{name}.weight") for name in names])
        biases = [f"{prefix}{name}.bias" for name in names]
        has_bias = biases[0] in files
        bias = torch.cat([files.read(bias) for bias in biases]) if has_bias else None
        return place.product(joined, bias)

    def head_norms() -> torch.Tensor:
        """Of the queries' heads, and of the keys'."""
        of_queries = norm("self_attn.q_norm").expand(config.num_heads, -1)
        of_keys = norm("self_attn.k_norm").expand(config.num_kv_heads, -1)
        return torch.cat([of_queries, of_keys])

    return _Layer(
        input_norm=norm("input_layernorm"),
        qkv=product("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        head_norms=head_norms() if config.has_head_norms else None,
        out=product("self_attn.o_proj"),
        ffn_norm=norm("post_attention_layernorm"),
        gate_up=product("mlp.gate_proj", "mlp.up_proj"),
        down=product("mlp.down_proj"),
    )
