"""What a mixture of experts carved from the built-in model loses, by active experts.

    python -m tests.bench.carve --json tests/bench/results/carve.json

Each is carved anew, with the usual settings and text. Perplexities are of two texts
that nothing was fitted to: the held-out articles, which are of the calibration's
kind, as the carver reports them; and this project's DECISIONS.md, which is not, as
transformers computes them from the checkpoint.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.models.carve.carving import carve_into
from deployments.models.carve.settings import CarveSettings
from deployments.models.carve.texts import default_texts
from deployments.models.resolve import resolve_model
from infra.progress import SILENT
from tests.builders.cluster import STATE_DIR
from tests.source_code import REPOSITORY

OTHER_TEXT = REPOSITORY / "DECISIONS.md"
NUM_OTHER_TOKENS = 2048


@dataclass(frozen=True)
class Row:
    """One carved model beside the dense one it is from."""

    num_active: int
    num_experts: int
    neurons: float  # part of the dense model's that computes for a token
    dense: float
    all_active: float
    carved: float
    dense_other_text: float
    carved_other_text: float
    processor_s: float  # of the carving, by all threads


def measure(source: Path, num_active: int, dense_other_text: float) -> Row:
    """Carve with so many active, and measure the checkpoint."""
    settings = CarveSettings(num_active=num_active)
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.process_time()
        out_dir = Path(folder) / "carved"
        texts = default_texts(settings.seed)
        report = carve_into(out_dir, source, texts, settings, SILENT)
        processor_s = time.process_time() - started_s
        return Row(
            num_active=num_active,
            num_experts=report.cut.num_experts,
            neurons=report.cut.num_active_neurons / report.cut.num_neurons,
            **asdict(report.perplexity),
            dense_other_text=dense_other_text,
            carved_other_text=other_perplexity(out_dir),
            processor_s=processor_s,
        )


def other_perplexity(directory: Path) -> float:
    """Of the text that is unlike the calibration's."""
    # Takes seconds to import.
    from tests.reference.perplexity import perplexity_of  # noqa: PLC0415

    return perplexity_of(directory, OTHER_TEXT.read_text(), 512, NUM_OTHER_TOKENS)


def main() -> None:
    """Measure and print a row of JSON for each number of active experts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model reference")
    parser.add_argument("--active", type=int, nargs="+", default=[8, 10, 12, 14, 16])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    source = Path(resolve_model(given.model, STATE_DIR).path)
    dense_other_text = other_perplexity(source)
    rows = []
    for num_active in given.active:
        rows.append(asdict(measure(source, num_active, dense_other_text)))
        print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
