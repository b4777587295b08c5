"""How much of what the draft proposes the target would have said."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deployments.models.distill.accepted import acceptance_of, num_accepted
from deployments.models.distill.answers import Answer
from deployments.models.distill.report import Acceptance
from deployments.models.distill.speaker import Speaker
from deployments.models.distill.vocabulary import Integers

NUM_PROPOSED = 8
NUM_BEGINNING_TOKENS = 64
_MAX_PLACES = 384
_BATCH = 64


def measure_acceptance(
    draft: Any,
    answers: Sequence[Answer],
    ids: Integers,
    seed: int,
    num_tokens: int | None = None,
) -> Acceptance:
    """Of eight tokens proposed in up to 384 places of these answers, of all their tokens or
    of the first so many.

    The target's answers must be its most probable tokens, as must be what the draft says.
    """
    places = [
        (number, place)
        for number, answer in enumerate(answers)
        for place in range(len(answer.said[:num_tokens]) - NUM_PROPOSED + 1)
    ]
    random.Random(seed).shuffle(places)
    places = places[:_MAX_PLACES]
    places.sort(key=lambda at: len(answers[at[0]].prompt) + at[1])
    accepted: list[int] = []
    for start in range(0, len(places), _BATCH):
        chosen = [(answers[number], place) for number, place in places[start : start + _BATCH]]
        texts = [
            [*answer.prompt.tolist(), *answer.said[:place].tolist()] for answer, place in chosen
        ]
        said = np.stack([a.said[place : place + NUM_PROPOSED] for a, place in chosen])
        accepted += num_accepted(_propose(draft, texts, ids), said)
    return acceptance_of(accepted, NUM_PROPOSED)


def _propose(draft: Any, texts: list[list[int]], ids: Integers) -> Integers:
    """Shape: [num_texts, NUM_PROPOSED], tokens of the target."""
    row_to_id = torch.from_numpy(ids)
    proposed = []
    with torch.inference_mode():
        speaker = Speaker(draft, texts, NUM_PROPOSED)
        logits = speaker.begin()
        for _ in range(NUM_PROPOSED - 1):
            proposed.append(row_to_id[logits.argmax(-1)])
            logits = speaker.step(proposed[-1])
        proposed.append(row_to_id[logits.argmax(-1)])
    found: Integers = torch.stack(proposed, dim=1).numpy()
    return found
