"""A process with an engine under load (`expert_load_program`), and what it says at the end."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LIMIT_S = 300.0


@dataclass(frozen=True)
class Load:
    """Requests for an engine."""

    num_prompts: int
    num_tokens: int
    max_token: int
    once: bool = False


@dataclass(frozen=True)
class Said:
    """What an engine under load has said."""

    answers: list[tuple[int, list[int]]]
    """Prompt and token ids, in the order in which they ended."""
    steps: list[tuple[float, int]]
    """When each step ended, by the machine's monotonic clock, and how many outputs it had."""

    def pauses(self) -> list[tuple[float, float]]:
        """When each step began, and how long it took: no stream had a token in between."""
        times = [at_s for at_s, _ in self.steps]
        return [(a, b - a) for a, b in itertools.pairwise(times)]


class LoadedEngine:
    """Under load from the end of the constructor on."""

    def __init__(
        self, arguments: Mapping[str, Any], environment: dict[str, str], load: Load
    ) -> None:
        variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.builders.expert_load_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL,
            text=True,
            env=os.environ | variables | environment,
        )
        self._say(vars(load) | {"arguments": dict(arguments)})
        self._hear()

    def end(self) -> Said:
        """Let what is under way come to its end."""
        self._say({})
        return self.wait()

    def wait(self) -> Said:
        """Where each prompt is answered once: until all are."""
        found = self._hear()
        self.close()
        answers = [(number, ids) for number, ids in found["answers"]]
        return Said(answers, [(at_s, count) for at_s, count in found["steps"]])

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the engine has ended; BENCH_LOG=1 shows why"
        found: dict[str, Any] = json.loads(line)
        return found
