"""From a model reference to what an engine can load.

Anything but GGUF is passed on as it is; a GGUF file becomes a directory in the
cache. The second call for the same model takes milliseconds and imports
neither torch nor transformers, because every process of the cluster makes it.
"""

from dataclasses import dataclass
from pathlib import Path

from deployments.models.builtin import NAME_TO_BUILTIN, BuiltinModel
from deployments.models.carve.carving import Carving
from deployments.models.conversion import Converter, Source, convert_once
from deployments.models.digest import file_digest
from deployments.models.gguf_converter import GgufConverter
from deployments.models.recommended_sampling import WithSampling
from deployments.models.reference import ModelReference, ReferenceKind, parse_reference
from infra.errors import ConfigError
from infra.progress import SILENT, Progress

_DEFAULT_CONVERTER = GgufConverter()


@dataclass(frozen=True)
class ResolvedModel:
    """What an engine loads.

    `path` is an absolute local directory with safetensors, tokenizer and
    config, or the hub id. `source` is the GGUF file it was converted from and
    `source_sha256` that file's digest; both None where nothing was converted.
    """

    path: str
    reference: str
    kind: ReferenceKind
    source: Path | None = None
    source_sha256: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `path` is a directory on this machine."""
        return self.kind != "hub"


def resolve_model(
    reference: str,
    cache_dir: Path,
    progress: Progress = SILENT,
    converter: Converter = _DEFAULT_CONVERTER,
) -> ResolvedModel:
    """Make the model available on this machine and say where.

    Converted models are kept under `cache_dir`/models; a built-in one with its
    recommended sampling, which the same file given by its path has not. The
    first call for a GGUF file takes tens of seconds, later ones milliseconds.
    Safe to call from many processes at once. Raises `ConfigError` if the model
    does not exist, is damaged, or cannot be converted.
    """
    parsed = parse_reference(reference)
    if parsed.path is None:
        return ResolvedModel(path=reference, reference=reference, kind=parsed.kind)
    if parsed.kind == "directory":
        return ResolvedModel(path=str(parsed.path), reference=reference, kind=parsed.kind)
    models_dir = cache_dir.expanduser().absolute() / "models"
    source = Source(parsed.path, _checked_digest(parsed, parsed.path, models_dir, progress))
    builtin = _builtin(parsed)
    if builtin is not None and builtin.sampling:
        converter = WithSampling(converter, builtin.sampling)
    if builtin is not None and builtin.carving is not None:
        converter = Carving(converter, builtin.carving, models_dir)
    directory = convert_once(source, converter, models_dir, progress)
    return ResolvedModel(str(directory), reference, parsed.kind, source.path, source.sha256)


def _checked_digest(
    reference: ModelReference, path: Path, models_dir: Path, progress: Progress
) -> str:
    """The file's digest; raises `ConfigError` if a built-in model has another one."""
    try:
        digest = file_digest(path, models_dir / "digests", progress)
    except OSError as error:
        raise ConfigError(f"model {reference.text!r}: {error}") from error
    builtin = _builtin(reference)
    if builtin is not None and digest != builtin.sha256:
        raise ConfigError(
            f"built-in model {builtin.name!r} is damaged: {path} has SHA-256 {digest}, "
            f"not {builtin.sha256}; install {builtin.distribution} again"
        )
    return digest


def _builtin(reference: ModelReference) -> BuiltinModel | None:
    return NAME_TO_BUILTIN[reference.text] if reference.kind == "builtin" else None
