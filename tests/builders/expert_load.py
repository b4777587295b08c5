"""A process with an engine under load (`expert_load_program`), and what it says at the end."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.builders.json_child import JsonChild


@dataclass(frozen=True)
class Load:
    """Requests for an engine."""

    num_prompts: int
    num_tokens: int
    max_token: int
    once: bool = False
    prompts: Sequence[Sequence[int]] | None = None
    """Token ids of each; None for random ones, up to `max_token`."""


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
        self._child = JsonChild("tests.builders.expert_load_program", variables | environment)
        self._child.say(vars(load) | {"arguments": dict(arguments)})
        self._child.hear()
        self.close = self._child.close

    def end(self) -> Said:
        """Let what is under way come to its end."""
        self._child.say({})
        return self.wait()

    def wait(self) -> Said:
        """Where each prompt is answered once: until all are."""
        found = self._child.hear()
        self.close()
        answers = [(number, ids) for number, ids in found["answers"]]
        return Said(answers, [(at_s, count) for at_s, count in found["steps"]])
