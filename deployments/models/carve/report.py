"""What came of it: written beside the weights, and enough to do the same again."""

from collections.abc import Mapping
from dataclasses import dataclass

from deployments.models.carve.settings import CarveSettings, Cut

REPORT_NAME = "carve.json"


@dataclass(frozen=True)
class Perplexities:
    """On the held-out text: exp of the mean negative logprob of a token."""

    dense: float
    all_active: float  # every expert computes: the cut alone, before the fit
    carved: float


@dataclass(frozen=True)
class CarveReport:
    """Contents of `carve.json`.

    `source` is the name of the directory, `versions` those of the packages by
    whose arithmetic the last digits may differ. The digests are of the texts, in UTF-8.
    """

    source: str
    versions: Mapping[str, str]
    settings: CarveSettings
    cut: Cut
    dtype: str
    text: str
    calibration_sha256: str
    held_out_sha256: str
    num_calibration_tokens: int
    num_held_out_tokens: int
    perplexity: Perplexities
