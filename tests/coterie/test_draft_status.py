"""What `coterie status` shows of drafts."""

import io
from typing import Any

from rich.console import Console

from coterie.cli.draft_status import print_drafts

REPLICA = {
    "model": "chat",
    "replica_id": "ab12",
    "cores": [1],
    "startup_s": {"total": 2.5},
    "num_engines": 2,
    "num_answers": 1204,
    "busy_s": 31.2,
    "running_s": 99.7,
}


def drafts(num_drafts: int, num_tokens: int, num_accepted: int) -> dict[str, int]:
    return {"num_drafts": num_drafts, "num_tokens": num_tokens, "num_accepted": num_accepted}


def shown(*details: dict[str, Any]) -> list[str]:
    """Its lines, each space once."""
    text = io.StringIO()
    print_drafts(Console(file=text, width=120), details)
    return [" ".join(line.split()) for line in text.getvalue().splitlines() if line.strip()]


def test_what_became_of_drafts_is_of_all_engines_of_a_model_together() -> None:
    lines = shown(
        {"model": "chat", "drafts": drafts(10, 40, 10)},
        {"model": "chat", "drafts": drafts(30, 60, 40)},
        {"model": "other", "drafts": drafts(0, 0, 0)},
        {"model": "plain", "drafts": None},
    )
    assert lines == [
        "drafts of chat: 50% of 100 tokens accepted, 2.2 tokens a step where there was one",
        "drafts of other: none that was worth verifying",
    ]


def test_each_draft_replica_has_a_line_below_its_model() -> None:
    lines = shown(
        {"model": "chat", "drafts": drafts(1, 2, 1)}, REPLICA, REPLICA | {"cores": None}
    )
    assert lines[1:] == [
        "draft replica cores busy engines answers start-up",
        "ab12 1 31 s of 100 s 2 1204 2.5 s",
        "ab12 any 31 s of 100 s 2 1204 2.5 s",
    ]
