"""A converter that takes no time, counts its runs in a file, and can be made to fail."""

import time
from pathlib import Path

from infra.errors import ConfigError
from infra.progress import Progress

FILES = {
    "config.json": b"{}",
    "generation_config.json": b'{"eos_token_id": 1}',
    "model.safetensors": b"0123456789",
}


class FakeConverter:
    """Copies nothing: writes `FILES` and one line to `log` for every run."""

    def __init__(self, log: Path, *, version: str = "1", delay_s: float = 0.0) -> None:
        self.log = log
        self.version = version
        self.delay_s = delay_s
        self.fails = False

    def convert(self, source: Path, target: Path, progress: Progress) -> None:
        """Fill `target`; raises `ConfigError` half-way if `fails` is set."""
        progress.report("converting", 0.0)
        with self.log.open("a") as file:
            file.write(f"{source.name}\n")
        time.sleep(self.delay_s)
        for name, content in FILES.items():
            (target / name).write_bytes(content)
            if self.fails:
                raise ConfigError("cannot convert this")

    @property
    def num_runs(self) -> int:
        """Conversions begun so far, in all processes."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


class RecordingProgress:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, float | None]] = []

    def report(self, stage: str, fraction: float | None = None) -> None:
        """Append to `reports`."""
        self.reports.append((stage, fraction))

    @property
    def stages(self) -> list[str]:
        """Stages in the order they were first reported."""
        return list(dict.fromkeys(stage for stage, _ in self.reports))
