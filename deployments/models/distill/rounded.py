"""A target whose products are computed in 8 bits: what it says in bulk, to be trained on.

Answers take most of the hour, and their products most of an answer. Of SmolLM2-135M in 8
bits the likeliest token is the same in 0.93 of places of chats and 0.96 of code, and it
diverges from its exact distribution by 0.03 nats (2,397 and 1,224 places), where a draft
diverges by about one. Answers that are measured on come from the exact one.
"""

import copy
from typing import Any

import torch

from deployments.models.products import int8_product


class _Linear8(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()
        self._product = int8_product(linear.weight.detach(), bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._product(inputs)


def in_8_bits(model: Any) -> Any:
    """A copy of the model, all of whose products are so."""
    rounded = copy.deepcopy(model)
    for module in list(rounded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _Linear8(child))
    return rounded
