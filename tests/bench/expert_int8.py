"""What it costs in perplexity that expert hosts keep weights in 8 bits.

    python -m tests.bench.expert_int8 --json tests/bench/results/expert_int8.json

The routed experts of the carved model are rounded as `precision: int8` does it, all else stays,
and transformers computes in float32. Hosts round activations to bfloat16 besides, as they do
for a bfloat16 engine in any case.
"""

import argparse
import json
from pathlib import Path

import torch

from deployments.experts.weights_int8 import Int8Weight
from deployments.models.carve.texts import default_texts
from deployments.models.resolve import resolve_model
from tests.bench.carve import OTHER_TEXT
from tests.builders.cluster import STATE_DIR
from tests.reference.perplexity import perplexity_of

LENGTH, NUM_TOKENS = 512, 4096
_FUSED = ("experts.gate_up_proj", "experts.down_proj")


def round_experts(model: torch.nn.Module) -> None:
    """Each weight of a routed expert to the nearest that 8 bits and its row's scale give."""
    found = 0
    for name, weights in model.named_parameters():
        if name.endswith(_FUSED):
            found += 1
            for weight in weights.data:
                near = Int8Weight.of(weight)
                weight.copy_(near.numbers.float() * near.scales.float()[:, None])
    assert found, "the model has no routed experts in one tensor"


def main() -> None:
    """Measure and print a row of JSON for each text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-carved-16x12", help="model reference")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    model = Path(resolve_model(given.model, STATE_DIR).path)
    texts = {"held out": default_texts(0).held_out, OTHER_TEXT.name: OTHER_TEXT.read_text()}
    rows = []
    for name, text in texts.items():
        full, int8 = (
            perplexity_of(model, text, LENGTH, NUM_TOKENS, change)
            for change in (None, round_experts)
        )
        rows.append({"text": name, "num_tokens": NUM_TOKENS, "full": full, "int8": int8})
        print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
