"""A process with an engine in it, which does what its standard input says, line by line."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def serve(
    defaults: Mapping[str, Any],
    answer: Callable[[Any, dict[str, Any]], Iterator[dict[str, Any]]],
    before_import: Callable[[], None] = lambda: None,
) -> None:
    """Make an engine of the first line's arguments, say `{}`, and `answer` each line that
    follows, until the input ends. Lines are of JSON. An answer is one line, or several: before
    each further one its asker is waited for, who says `{}`.

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
        asked = json.loads(line)
        if asked:
            said = answer(llm, asked)
        lines.write(json.dumps(next(said)) + "\n")
        lines.flush()
