"""A Python program in a process of its own, that is told and says lines of JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_LIMIT_S = 300.0


class JsonChild:
    """Reads its standard input line by line, and ends with it. What it logs is thrown
    away, unless `BENCH_LOG` is set."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL,
            text=True,
            env=os.environ | dict(environment),
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def say(self, what: Mapping[str, Any]) -> None:
        """A line more."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line; waits for it. Raises AssertionError where it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the child has ended; BENCH_LOG=1 shows why"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End its input, and it."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
