"""Sampling defaults in a converted checkpoint, for source files that carry none.

They go where engines look for a model's own defaults: `generation_config.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.models.conversion import Converter
from infra.progress import Progress

_FILE_NAME = "generation_config.json"


@dataclass(frozen=True)
class WithSampling:
    """A converter that adds sampling defaults to what another one makes.

    They are part of its version, so a checkpoint without them, or with others,
    lies in another directory.
    """

    converter: Converter
    sampling: Mapping[str, float]

    @property
    def version(self) -> str:
        """That of the other converter, and each default by name."""
        defaults = "".join(f"+{name}={value}" for name, value in sorted(self.sampling.items()))
        return f"{self.converter.version}{defaults}"

    def convert(self, source: Path, target: Path, progress: Progress) -> None:
        """Convert, and add the defaults to the `generation_config.json` in `target`.

        Raises `ConfigError` if the source cannot be converted.
        """
        self.converter.convert(source, target, progress)
        path = target / _FILE_NAME
        # Without `do_sample`, transformers takes a temperature for a mistake.
        config = json.loads(path.read_bytes()) | {"do_sample": True} | dict(self.sampling)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
