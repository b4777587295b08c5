"""Three models side by side over the same tokens, as their residual streams.

dense    the source
carved   each of its layers is made where its stream arrives
whole    the carved one with all experts active, of the dense weights: shows
         that the cut itself loses nothing
"""

import math
from collections.abc import Callable

import torch

from deployments.models.carve.dense_model import DenseLayer, DenseModel
from deployments.models.carve.ffn import CarvedFfn, whole
from deployments.models.carve.report import Perplexities
from deployments.models.carve.tokens import Tokens

_BATCH_SEQUENCES = 8

# Inputs and targets on calibration tokens, both [num_tokens, hidden], to a carved network.
Fit = Callable[[DenseLayer, torch.Tensor, torch.Tensor], CarvedFfn]


class Streams:
    """Residual streams between two layers.

    Shapes: `dense` and `carved` [num_calibration + num_held_out, length, hidden],
    `whole` [num_held_out, length, hidden]. 4 bytes an element.
    """

    def __init__(self, model: DenseModel, tokens: Tokens, dtype: torch.dtype) -> None:
        self._model = model
        self._tokens = tokens
        self._dtype = dtype
        self._num_calibration = len(tokens.calibration)
        self.dense = model.embed(torch.cat([tokens.calibration, tokens.held_out]))
        self.carved = self.dense.clone()
        self.whole = self.dense[self._num_calibration :].clone()
        self._positions = model.positions(self.dense[:1])

    def pass_layer(self, layer: DenseLayer, fit: Fit) -> CarvedFfn:
        """Carry all three over one layer, carving it on the way."""
        self._attend(layer, self.dense)
        _add_ffn(layer, self.dense, lambda x: layer.neurons(x) @ layer.down.T)
        self._attend(layer, self.carved)
        before = self.carved[: self._num_calibration]
        inputs = layer.ffn_input(before).flatten(0, 1)
        targets = (self.dense[: self._num_calibration] - before).flatten(0, 1)
        carved = fit(layer, inputs, targets).rounded(self._dtype)
        _add_ffn(layer, self.carved, lambda x: carved.output(layer, x))
        self._attend(layer, self.whole)
        all_active = whole(carved.partition, layer.down).rounded(self._dtype)
        _add_ffn(layer, self.whole, lambda x: all_active.output(layer, x))
        return carved

    def perplexities(self) -> Perplexities:
        """Those of the held-out tokens, behind the last layer."""
        held_out = self._tokens.held_out

        def perplexity(hidden: torch.Tensor) -> float:
            return math.exp(-self._model.log_likelihood(hidden, held_out))

        return Perplexities(
            dense=perplexity(self.dense[self._num_calibration :]),
            all_active=perplexity(self.whole),
            carved=perplexity(self.carved[self._num_calibration :]),
        )

    def _attend(self, layer: DenseLayer, stream: torch.Tensor) -> None:
        for batch in stream.split(_BATCH_SEQUENCES):
            batch.copy_(layer.attend(batch, self._positions))


def _add_ffn(
    layer: DenseLayer, stream: torch.Tensor, output: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for batch in stream.split(_BATCH_SEQUENCES):
        batch.add_(output(layer.ffn_input(batch)))
