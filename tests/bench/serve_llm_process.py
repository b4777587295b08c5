"""Ray Serve LLM beside the benchmark: started, waited for, ended."""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deployments.settings import ModelSection

REPOSITORY = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S = 120.0


class RunningServeLLM:
    """`tests.bench.serve_llm` under an interpreter of its own, while the block runs.

    `python` names the interpreter, `state_dir` the directory of prepared models.
    """

    def __init__(
        self,
        python: Path,
        section: ModelSection,
        state_dir: Path,
        *,
        is_direct: bool,
        is_prefix_aware: bool = False,
    ) -> None:
        self._command = [str(python), "-m", "tests.bench.serve_llm"]
        self._command += ["--section", section.model_dump_json(exclude_defaults=True)]
        self._command += ["--state-dir", str(state_dir)]
        self._command += ["--direct"] if is_direct else []
        self._command += ["--prefix-aware"] if is_prefix_aware else []
        self.url = ""

    def __enter__(self) -> Self:
        """Takes a minute or more. Raises RuntimeError with its last words if it fails."""
        self._log = tempfile.TemporaryFile("w+")
        self._program = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            text=True,
        )
        assert self._program.stdout is not None
        try:
            # It limits its own start; its end is the end of this line, too.
            ready = self._program.stdout.readline()
            if not ready:
                raise RuntimeError(f"Ray Serve LLM did not start: {self._last_words()}")
            self.url = json.loads(ready)["url"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = self._end()
        if error is None:
            assert not left, f"processes outlived Ray Serve LLM: {left}"

    def _end(self) -> list[psutil.Process]:
        """End it with all it started; those that had to be killed."""
        try:
            process = psutil.Process(self._program.pid)
            members = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            members = []
        if not self.url:
            self._program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Where it serves, the end of its input tells it to end.
            self._program.communicate(timeout=_STOP_TIMEOUT_S)
        self._log.close()
        _, left = psutil.wait_procs(members, timeout=10)
        for each in left:
            each.kill()
        return left

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]
