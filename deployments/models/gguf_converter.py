"""The GGUF converter as the cache sees it: light until it has work to do."""

from importlib.metadata import version
from pathlib import Path

from infra.progress import Progress

# Raise it whenever the written files change for the same GGUF file and transformers.
_FORMAT = 1


class GgufConverter:
    """Turns a GGUF file into a bfloat16 checkpoint with tokenizer and configuration."""

    @property
    def version(self) -> str:
        """Our format number and the version of transformers that dequantizes."""
        return f"gguf-{_FORMAT}+transformers-{version('transformers')}"

    def convert(self, source: Path, target: Path, progress: Progress) -> None:
        """Convert `source`; a model of 135 million parameters takes 20 seconds.

        Memory: the whole model in bfloat16, about 2 bytes a parameter.
        """
        progress.report("loading the converter", None)
        # Imported here because torch and transformers take 5 s to import.
        from deployments.models.gguf_checkpoint import write_checkpoint  # noqa: PLC0415

        write_checkpoint(source, target, progress)
