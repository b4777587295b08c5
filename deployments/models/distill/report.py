"""What came of it: written beside the weights, and enough to do the same again."""

from collections.abc import Mapping
from dataclasses import dataclass

from deployments.models.distill.settings import DistillSettings

REPORT_NAME = "distill.json"


@dataclass(frozen=True)
class Acceptance:
    """On the target's most probable answers to held-out prompts.

    `rates` has, for each of the tokens proposed, the part of those accepted among those
    whose predecessors were; `mean_accepted` is the mean number of accepted ones.
    """

    num_places: int
    rates: tuple[float, ...]
    mean_accepted: float


@dataclass(frozen=True)
class DistillReport:
    """Contents of `distill.json`.

    `source` is the name of the target's directory. `answers_sha256` is of all that
    the target said. `losses` are means of equal parts of the training. `coverage` is the
    part of held-out tokens that the draft can say, by task; `acceptance` is of places
    anywhere in held-out answers, `beginnings` of those among their first tokens, before a
    small target begins to repeat itself.
    """

    source: str
    versions: Mapping[str, str]
    settings: DistillSettings
    layers: tuple[int, ...]
    prompts: str
    answers_sha256: str
    num_answers: Mapping[str, int]
    num_answer_tokens: Mapping[str, int]
    num_held_out_tokens: Mapping[str, int]
    num_steps: int
    num_trained_tokens: int
    losses: list[float]
    answering_s: float
    training_s: float
    coverage: Mapping[str, float]
    acceptance: Mapping[str, Acceptance]
    beginnings: Mapping[str, Acceptance]
