"""A few tokens through all layers in one compiled call, weights in 8 bits.

torch takes more time between its operators than in them where a step is a token of some
sequences. Inputs stay in float32, so a row is what it is alone; the weights are read once for
each four rows, which for some rows is what counts.

Measured on one core of a Xeon with AVX-512, three layers of SmolLM2-135M's and a head of 8,192
rows, one token of 1, 2, 4, 8 and 16 sequences of 200: 3.4, 5.6, 6.3, 10.6 and 20.1 ms, with
torch 5.7, 8.1, 9.6, 13.1 and 17.5 ms; 4 tokens of 1 and 2 sequences: 5.4 and 9.1, with torch
7.3 and 8.9 ms (medians of five).
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from deployments.drafts.model.kv_pages import PAGE_TOKENS
from infra.compiled import compiled

MAX_ROWS = 8
"""Of more, torch's products of whole batches are quicker."""

_FEW_BYTES = 32 << 20
"""Of weights: what one core reads while several of torch's threads would begin and end."""

_TILE_ROWS, _TILE_OUTPUTS = 4, 2
"""Of a product: what is computed side by side."""

_MAX = 127
_TINY = np.float32(1e-12)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Weights8(NamedTuple):
    """Of the same product in each layer.

    Shapes: `rounded` [num_layers, num_outputs, num_inputs], in units of `scales`
    [num_layers, num_outputs]; `biases` as these. An even number of outputs.
    """

    rounded: NDArray[np.int8]
    scales: Floats
    biases: Floats

    @classmethod
    def of(cls, weights: Floats, biases: Floats | None = None) -> "Weights8":
        """The weights, rounded output by output; one output more that is never the
        likeliest, if their number is odd."""
        num_layers, num_outputs, _ = weights.shape
        num_more = -num_outputs % _TILE_OUTPUTS
        if biases is None:
            biases = np.zeros((num_layers, num_outputs), np.float32)
        biases = np.pad(biases, ((0, 0), (0, num_more)), constant_values=-np.inf)
        weights = np.pad(weights, ((0, 0), (0, num_more), (0, 0)))
        scales = np.maximum(np.abs(weights).max(axis=-1), _TINY) / np.float32(_MAX)
        rounded = np.rint(weights / scales[..., None]).astype(np.int8)
        return cls(rounded, scales, biases)


class Layers(NamedTuple):
    """All weights but the embedding; see `draft_model._Layer`.

    Shapes: `norms` [num_layers, 2, hidden], before attention and before the network behind
    it; `head_norms` [num_layers, num_heads + num_kv_heads, head], or [0, 0, 0] where there
    are none; `last_norm` [hidden]; `head` has one layer.
    """

    norms: Floats
    head_norms: Floats
    last_norm: Floats
    qkv: Weights8
    out: Weights8
    gate_up: Weights8
    down: Weights8
    head: Weights8
    eps: float
    """Of norms."""


class Rows(NamedTuple):
    """Tokens, of sequences one after the other.

    Shapes: `positions` and `sequences` [num_rows]; `pages` [num_sequences, most_pages];
    `last` [num_sequences], the rows whose next tokens are asked for.
    """

    positions: Ints
    sequences: Ints
    pages: Ints
    last: Ints


class _Turns(NamedTuple):
    """Of the rows' positions. Shapes: [num_rows, head / 2]."""

    cos: Floats
    sin: Floats


class _Memory(NamedTuple):
    """Of all pages. Shapes: [num_layers, num_places, num_kv_heads, head]."""

    keys: Floats
    values: Floats


class _Space(NamedTuple):
    """What is computed on the way. Shapes: [rows of whole tiles, numbers of a row]; `shares`
    [num_heads, most tokens of a sequence]."""

    normed: Floats
    heads: Floats
    mixed: Floats
    gate_up: Floats
    between: Floats
    added: Floats
    logits: Floats
    shares: Floats


_F1, _F2, _F3 = types.float32[::1], types.float32[:, ::1], types.float32[:, :, ::1]
_F4 = types.float32[:, :, :, ::1]
_I1, _I2 = types.int32[::1], types.int32[:, ::1]
_WEIGHTS = types.NamedTuple((types.int8[:, :, ::1], _F2, _F2), Weights8)
_LAYERS = types.NamedTuple((_F3, _F3, _F1, *[_WEIGHTS] * 5, types.float64), Layers)
_ROWS = types.NamedTuple((_I1, _I1, _I2, _I1), Rows)
_TURNS = types.NamedUniTuple(_F2, 2, _Turns)
_MEMORY = types.NamedUniTuple(_F4, 2, _Memory)
_SPACE = types.NamedUniTuple(_F2, 8, _Space)


@compiled(types.void(_F2, types.intp, _WEIGHTS, types.intp, _F2), reorders_sums=True)
def _multiply(
    inputs: Floats, num_rows: int, weights: Weights8, layer: int, outputs: Floats
) -> None:
    """Rows beyond the number are computed with, up to a whole tile."""
    rounded = weights.rounded[layer]
    scales, biases = weights.scales[layer], weights.biases[layer]
    num_outputs, num_inputs = rounded.shape
    for out in range(0, num_outputs, _TILE_OUTPUTS):
        if num_rows == 1:
            a = b = np.float32(0)
            for i in range(num_inputs):
                a += inputs[0, i] * np.float32(rounded[out, i])
                b += inputs[0, i] * np.float32(rounded[out + 1, i])
            outputs[0, out] = a * scales[out] + biases[out]
            outputs[0, out + 1] = b * scales[out + 1] + biases[out + 1]
            continue
        for row in range(0, num_rows, _TILE_ROWS):
            a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = np.float32(0)
            for i in range(num_inputs):
                w0, w1 = np.float32(rounded[out, i]), np.float32(rounded[out + 1, i])
                a, b = inputs[row, i], inputs[row + 1, i]
                c, d = inputs[row + 2, i], inputs[row + 3, i]
                a0 += a * w0
                a1 += a * w1
                b0 += b * w0
                b1 += b * w1
                c0 += c * w0
                c1 += c * w1
                d0 += d * w0
                d1 += d * w1
            sums = ((a0, a1), (b0, b1), (c0, c1), (d0, d1))
            for k in range(_TILE_ROWS):
                outputs[row + k, out] = sums[k][0] * scales[out] + biases[out]
                outputs[row + k, out + 1] = sums[k][1] * scales[out + 1] + biases[out + 1]


@compiled(types.void(_F1, _F1, types.float64, _F1), reorders_sums=True)
def _norm(inputs: Floats, weight: Floats, eps: float, outputs: Floats) -> None:
    total = np.float32(0)
    for i in range(len(inputs)):
        total += inputs[i] * inputs[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(len(inputs)) + np.float32(eps))
    for i in range(len(inputs)):
        outputs[i] = inputs[i] * scale * weight[i]


@compiled(types.void(_F1, _F1, _F1), reorders_sums=True)
def _turn(head: Floats, cos: Floats, sin: Floats) -> None:
    half = len(head) // 2
    for i in range(half):
        first, second = head[i], head[i + half]
        head[i] = first * cos[i] - second * sin[i]
        head[i + half] = second * cos[i] + first * sin[i]


@compiled(types.void(_F2, _F3, _F3, _I1, types.intp, _F2, _F2), reorders_sums=True)
def _attend(
    queries: Floats,
    keys: Floats,
    values: Floats,
    pages: Ints,
    num_tokens: int,
    shares: Floats,
    outputs: Floats,
) -> None:
    """Of one token. Shapes: queries and outputs [num_heads, head], keys and values
    [num_places, num_kv_heads, head], shares [num_heads, at least num_tokens]."""
    num_heads, size = queries.shape
    group = num_heads // keys.shape[1]
    scale = np.float32(1) / np.sqrt(np.float32(size))
    most = np.full(num_heads, -np.inf, np.float32)
    for token in range(num_tokens):
        place = pages[token // PAGE_TOKENS] * PAGE_TOKENS + token % PAGE_TOKENS
        for head in range(num_heads):
            kv_head = head // group
            score = np.float32(0)
            for i in range(size):
                score += queries[head, i] * keys[place, kv_head, i]
            score *= scale
            shares[head, token] = score
            most[head] = max(most[head], score)
    for head in range(num_heads):
        total = np.float32(0)
        for token in range(num_tokens):
            share = np.exp(shares[head, token] - most[head])
            shares[head, token] = share
            total += share
        for i in range(size):
            outputs[head, i] = np.float32(0)
        most[head] = np.float32(1) / total
    for token in range(num_tokens):
        place = pages[token // PAGE_TOKENS] * PAGE_TOKENS + token % PAGE_TOKENS
        for head in range(num_heads):
            kv_head, share = head // group, shares[head, token] * most[head]
            for i in range(size):
                outputs[head, i] += share * values[place, kv_head, i]


@compiled(types.void(_F2, types.intp, _F2), reorders_sums=True)
def _gate(gate_up: Floats, num_rows: int, outputs: Floats) -> None:
    """SiLU of the first half, times the second."""
    size = outputs.shape[1]
    for row in range(num_rows):
        for i in range(size):
            gate = gate_up[row, i]
            turned = gate / (np.float32(1) + np.exp(-gate))
            outputs[row, i] = turned * gate_up[row, size + i]


@compiled(types.Tuple((types.int64, types.float64))(_F1), reorders_sums=True)
def _likeliest(logits: Floats) -> tuple[int, float]:
    best = 0
    for token in range(len(logits)):
        if logits[token] > logits[best]:
            best = token
    total = np.float32(0)
    for token in range(len(logits)):
        total += np.exp(logits[token] - logits[best])
    return best, float(1 / total)


@compiled(types.void(_LAYERS, types.intp, _ROWS, _TURNS, _MEMORY, _SPACE), reorders_sums=True)
def _keep(
    layers: Layers, layer: int, rows: Rows, turns: _Turns, memory: _Memory, space: _Space
) -> None:
    """Turn queries and keys, and put keys and values where they belong."""
    _, _, num_kv_heads, size = memory.keys.shape
    num_all = space.heads.shape[1] // size
    num_heads = num_all - 2 * num_kv_heads
    for row in range(len(rows.positions)):
        own = space.heads[row].reshape((num_all, size))
        for head in range(num_heads + num_kv_heads):
            if len(layers.head_norms):
                _norm(own[head], layers.head_norms[layer, head], layers.eps, own[head])
            _turn(own[head], turns.cos[row], turns.sin[row])
        position = rows.positions[row]
        page = rows.pages[rows.sequences[row], position // PAGE_TOKENS]
        place = page * PAGE_TOKENS + position % PAGE_TOKENS
        memory.keys[layer, place] = own[num_heads : num_heads + num_kv_heads]
        memory.values[layer, place] = own[num_heads + num_kv_heads :]


@compiled(types.void(_F2, _LAYERS, _ROWS, _TURNS, _MEMORY, _SPACE), reorders_sums=True)
def _pass(
    hidden: Floats,
    layers: Layers,
    rows: Rows,
    turns: _Turns,
    memory: _Memory,
    space: _Space,
) -> None:
    """Through all layers. Shape: [rows of whole tiles, hidden], which is changed."""
    num_rows, eps = len(rows.positions), layers.eps
    size = memory.keys.shape[3]
    num_mixed = space.mixed.shape[1]
    for layer in range(layers.norms.shape[0]):
        for row in range(num_rows):
            _norm(hidden[row], layers.norms[layer, 0], eps, space.normed[row])
        _multiply(space.normed, num_rows, layers.qkv, layer, space.heads)
        _keep(layers, layer, rows, turns, memory, space)
        for row in range(num_rows):
            _attend(
                space.heads[row, :num_mixed].reshape((num_mixed // size, size)),
                memory.keys[layer],
                memory.values[layer],
                rows.pages[rows.sequences[row]],
                rows.positions[row] + 1,
                space.shares,
                space.mixed[row].reshape((num_mixed // size, size)),
            )
        _multiply(space.mixed, num_rows, layers.out, layer, space.added)
        for row in range(num_rows):
            hidden[row] += space.added[row]
            _norm(hidden[row], layers.norms[layer, 1], eps, space.normed[row])
        _multiply(space.normed, num_rows, layers.gate_up, layer, space.gate_up)
        _gate(space.gate_up, num_rows, space.between)
        _multiply(space.between, num_rows, layers.down, layer, space.added)
        for row in range(num_rows):
            hidden[row] += space.added[row]


@compiled(types.void(_F2, _LAYERS, _ROWS, _SPACE, _I1, _F1), reorders_sums=True)
def _say(
    hidden: Floats,
    layers: Layers,
    rows: Rows,
    space: _Space,
    said: Ints,
    chances: Floats,
) -> None:
    """The likeliest row of the head behind each of `rows.last`. Shapes: [num_sequences]."""
    for number in range(len(said)):
        _norm(hidden[rows.last[number]], layers.last_norm, layers.eps, space.normed[number])
    _multiply(space.normed, len(said), layers.head, 0, space.logits)
    for number in range(len(said)):
        said[number], chances[number] = _likeliest(space.logits[number])


class FewRows:
    """All layers of one model, over its pages of keys and values."""

    def __init__(
        self, layers: Layers, keys: Floats, values: Floats, frequencies: Floats
    ) -> None:
        """`keys` and `values` are the pages' own memory; `frequencies` [head / 2]."""
        self._layers = layers
        self._memory = _Memory(keys, values)
        self._frequencies = frequencies
        weights = (part for part in layers if isinstance(part, Weights8))
        self._is_small = sum(part.rounded.nbytes for part in weights) <= _FEW_BYTES

    def is_quicker(self, num_rows: int, num_threads: int) -> bool:
        """Than torch with so many threads."""
        return num_rows <= MAX_ROWS and (num_threads == 1 or self._is_small)

    def read(self, embedded: Floats, rows: Rows) -> tuple[Ints, Floats]:
        """The likeliest row of the head behind each of `rows.last`, and how likely it is.

        Shapes: [num_rows, hidden] -> [num_sequences], [num_sequences].
        """
        num_rows, num_hidden = embedded.shape
        num_tiled = num_rows if num_rows == 1 else num_rows + -num_rows % _TILE_ROWS
        hidden = np.zeros((num_tiled, num_hidden), np.float32)
        hidden[:num_rows] = embedded
        angles = rows.positions[:, None].astype(np.float32) * self._frequencies
        turns = _Turns(np.cos(angles), np.sin(angles))
        space = self._space(num_tiled, int(rows.positions.max()) + 1)
        _pass(hidden, self._layers, rows, turns, self._memory, space)
        said = np.zeros(len(rows.last), np.int32)
        chances = np.zeros(len(rows.last), np.float32)
        _say(hidden, self._layers, rows, space, said, chances)
        return said, chances

    def _space(self, num_rows: int, num_tokens: int) -> _Space:
        """Zeros, so that rows of no token are numbers too."""
        layers, size = self._layers, self._memory.keys.shape[3]
        num_mixed = layers.out.rounded.shape[2]
        widths = (
            layers.norms.shape[2],
            layers.qkv.rounded.shape[1],
            num_mixed,
            layers.gate_up.rounded.shape[1],
            layers.down.rounded.shape[2],
            layers.norms.shape[2],
            layers.head.rounded.shape[1],
        )
        rows = [np.zeros((num_rows, width), np.float32) for width in widths]
        rows.append(np.zeros((num_mixed // size, num_tokens), np.float32))
        return _Space(*rows)
