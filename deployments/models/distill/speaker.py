"""Many texts spoken at once by a Llama-like model.

The weights of transformers' modules are run over caches of our own, which hold every
sequence aligned to the right: all of them write their next token at one place.

    place      0   1   2   3   4
    sequence   -   -   a   b   c      two places of padding, never attended to
               -   d   e   f   g
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass
class _Cache:
    """Keys and values of every layer.

    Shapes: `keys` and `values` [num_layers, num_sequences, num_kv_heads, room, head_dim];
    `is_text` [num_sequences, room], of which `length` places are written.
    """

    keys: torch.Tensor
    values: torch.Tensor
    is_text: torch.Tensor
    length: int = 0

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all sequences but those."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]
        self.is_text = self.is_text[rows]


class Speaker:
    """Sequences that grow together, a token a step.

    The model's head may have fewer rows than its embeddings: logits are of the head's.
    Memory: 8 bytes * num_layers * num_kv_heads * head_dim a place, padding included.
    """

    def __init__(self, model: Any, texts: list[list[int]], num_new: int) -> None:
        config = model.config
        self._model = model
        self._layers = model.model.layers
        self._num_kv_heads = config.num_key_value_heads
        self._head_dim = self._layers[0].self_attn.head_dim
        width = max(map(len, texts))
        shape = (len(self._layers), len(texts), self._num_kv_heads, width + num_new)
        self._cache = _Cache(
            torch.zeros(*shape, self._head_dim),
            torch.zeros(*shape, self._head_dim),
            torch.zeros(len(texts), width + num_new, dtype=torch.bool),
        )
        self._first = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            self._first[row, width - len(text) :] = torch.tensor(text)
            self._cache.is_text[row, width - len(text) :] = True
        self._offsets = torch.tensor([width - len(text) for text in texts])

    def begin(self) -> torch.Tensor:
        """Read the texts. Shape: [num_sequences, num_rows_of_head], logits of the next."""
        return self._forward(self._first)

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Add a token to each. Shape: [num_sequences] -> [num_sequences, num_rows]."""
        return self._forward(token_ids[:, None])

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these sequences alone."""
        self._cache.keep(rows)
        self._offsets = self._offsets[rows]

    def _forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        start, num_new = self._cache.length, token_ids.shape[1]
        end = self._cache.length = start + num_new
        hidden = self._model.model.embed_tokens(token_ids)
        places = torch.arange(start, end)
        positions = (places - self._offsets[:, None]).clamp(min=0)
        rotations = self._model.model.rotary_emb(hidden, positions)
        mask = self._mask(places, end)
        for index, layer in enumerate(self._layers):
            normed = layer.input_layernorm(hidden)
            hidden = hidden + self._attend(index, layer.self_attn, normed, rotations, mask)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        last = self._model.model.norm(hidden[:, -1])
        logits: torch.Tensor = self._model.lm_head(last)
        return logits

    def _mask(self, places: torch.Tensor, end: int) -> torch.Tensor:
        """Shape: [num_sequences, 1, num_new, end]. Padding attends to itself alone."""
        self._cache.is_text[:, self._first.shape[1] : end] = True
        earlier = torch.arange(end) <= places[:, None]
        itself = torch.arange(end) == places[:, None]
        return (self._cache.is_text[:, None, :end] & earlier | itself)[:, None]

    def _attend(
        self, index: int, attention: Any, normed: torch.Tensor, rotations: Any, mask: Any
    ) -> torch.Tensor:
        num_sequences, num_new, _ = normed.shape
        end = self._cache.length

        def heads(name: str) -> torch.Tensor:
            projection = getattr(attention, f"{name}_proj")
            parts = projection(normed).view(num_sequences, num_new, -1, self._head_dim)
            norm = getattr(attention, f"{name}_norm", None)  # Qwen3 has them
            return (parts if norm is None else norm(parts)).transpose(1, 2)

        keys, values = self._cache.keys[index], self._cache.values[index]
        keys[:, :, end - num_new : end] = _rotated(heads("k"), rotations)
        values[:, :, end - num_new : end] = heads("v")
        queries = _rotated(heads("q"), rotations)
        if num_new == 1:
            # Heads that share keys become places of one head: nothing is repeated.
            queries = queries.reshape(num_sequences, self._num_kv_heads, -1, self._head_dim)
        mixed = scaled_dot_product_attention(
            queries, keys[:, :, :end], values[:, :, :end], mask, enable_gqa=num_new > 1
        )
        mixed = mixed.reshape(num_sequences, -1, num_new, self._head_dim).transpose(1, 2)
        out: torch.Tensor = attention.o_proj(mixed.reshape(num_sequences, num_new, -1))
        return out


def _rotated(heads: torch.Tensor, rotations: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding. Shape: [num_sequences, num_heads, num_new, head_dim]."""
    cos, sin = (part[:, None] for part in rotations)
    left, right = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-right, left), dim=-1) * sin
