"""Lines of input and output files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATH = "/v1/completions"


def line(custom_id: str, text: str = "hey", url: str | None = PATH, **changes: Any) -> str:
    """One request; `changes` replace its fields."""
    body = {"model": "tiny", "prompt": text}
    fields = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(fields | changes)


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


def write_requests(path: Path, num: int) -> Path:
    return write_lines(path, [line(f"r{i}", f"text {i}") for i in range(num)])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def ids_in(path: Path) -> list[str]:
    return [fields["custom_id"] for fields in read_lines(path)]
