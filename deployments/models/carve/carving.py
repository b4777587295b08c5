"""Carving as the command and the cache see it: light until there is work to do."""

import platform
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path

from deployments.models.appearing import appearing
from deployments.models.carve.report import CarveReport
from deployments.models.carve.settings import CarveSettings
from deployments.models.carve.texts import Texts, default_texts
from deployments.models.conversion import Converter, Source, convert_once
from deployments.models.digest import file_digest
from infra.progress import Progress

# Raise it whenever the written files change for the same model, text and settings.
_FORMAT = 1


def carve_into(
    out_dir: Path, source: Path, texts: Texts, settings: CarveSettings, progress: Progress
) -> CarveReport:
    """Make `out_dir` the carved model of the checkpoint in the directory `source`.

    Raises `ConfigError` if there is something at `out_dir`, or the model cannot
    be carved; nothing is left then.
    """
    with appearing(out_dir) as partial:
        return _carve(source, partial, texts, settings, progress)


@dataclass(frozen=True)
class Carving:
    """A converter that carves what another one makes.

    The dense model is converted into `models_dir` as if it had been asked for,
    or found there.
    """

    dense: Converter
    settings: CarveSettings
    models_dir: Path

    @property
    def version(self) -> str:
        """That of the other converter, our format, the settings and where the text is from."""
        chosen = "-".join(map(str, astuple(self.settings)))
        text = f"python-{platform.python_version()}"
        return f"{self.dense.version}+carve-{_FORMAT}-{chosen}+torch-{version('torch')}+{text}"

    def convert(self, source: Path, target: Path, progress: Progress) -> None:
        """Convert and carve. Raises `ConfigError` if either cannot be done."""
        digest = file_digest(source, self.models_dir / "digests", progress)
        dense = convert_once(Source(source, digest), self.dense, self.models_dir, progress)
        _carve(dense, target, default_texts(self.settings.seed), self.settings, progress)


def _carve(
    source: Path, target: Path, texts: Texts, settings: CarveSettings, progress: Progress
) -> CarveReport:
    progress.report("loading the carver", None)
    # Imported here because torch and transformers take 5 s to import.
    from deployments.models.carve.carve import carve  # noqa: PLC0415

    return carve(source, target, texts, settings, progress)
