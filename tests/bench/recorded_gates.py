"""Which experts a real model's gates choose for real text, as steps of an engine have them.

Sequences of text are read side by side. A *decode step* is one place of all of them: what an
engine computes at once that says one token more for each. The experts are those of the
tokens of the text itself.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.models.carve.texts import default_texts


@dataclass(frozen=True, eq=False)
class RecordedGates:
    """Of some sequences of text."""

    topk_ids: NDArray[np.int32]  # [num_layers, num_sequences, num_tokens, top_k]
    num_experts: int

    def step(self, layer: int, place: int, sequences: slice) -> NDArray[np.int32]:
        """The decode step at a place, of some sequences. Shape: [num_sequences, top_k]."""
        return np.ascontiguousarray(self.topk_ids[layer, sequences, place])


def record(model: Path, num_sequences: int, num_tokens: int) -> RecordedGates:
    """Has transformers read articles that the carved model was not fitted to."""
    # Both take seconds to import.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    text = default_texts(0).held_out
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"][0]
    assert len(ids) >= num_sequences * num_tokens, "the text is too short"
    sequences = ids[: num_sequences * num_tokens].view(num_sequences, num_tokens)
    moe = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = []
    with torch.inference_mode():
        for sequence in sequences:
            logits = moe(sequence[None], output_router_logits=True).router_logits
            chosen = [layer.topk(moe.config.num_experts_per_tok).indices for layer in logits]
            found.append(torch.stack(chosen).numpy().astype(np.int32))
    return RecordedGates(np.stack(found, axis=1), moe.config.num_experts)
