"""A process with an engine in it, which does what its standard input says, line by line."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def serve(
    defaults: Mapping[str, Any],
    answer: Callable[[Any, dict[str, Any]], dict[str, Any]],
    before_import: Callable[[], None] = lambda: None,
) -> None:
    """Make an engine of the first line's arguments, say `{}`, and `answer` each line that
    follows, until the input ends. Lines are of JSON.

    vLLM writes to the standard output, so ours is kept from it.
    """
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    before_import()
    from vllm import LLM  # noqa: PLC0415 - takes seconds

    llm = LLM(**defaults | json.loads(sys.stdin.readline()))
    lines.write("{}\n")
    lines.flush()
    for line in sys.stdin:
        lines.write(json.dumps(answer(llm, json.loads(line))) + "\n")
        lines.flush()
