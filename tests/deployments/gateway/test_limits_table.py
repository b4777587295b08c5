"""The table of limits in the documents is that of the code."""

import re
from typing import Any

from deployments.gateway import checks, conversation_checks
from tests.source_code import REPOSITORY

ROW = re.compile(r"^\| `(MAX_\w+)` \| (\d+) \|", re.MULTILINE)


def limits_of(module: Any) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if name.startswith("MAX_")}


def test_the_limits_in_the_documents_are_those_of_the_code() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    told = {name: int(limit) for name, limit in ROW.findall(text)}
    found = limits_of(conversation_checks) | limits_of(checks)
    assert found.items() >= told.items()
    assert told.keys() >= limits_of(checks).keys()
