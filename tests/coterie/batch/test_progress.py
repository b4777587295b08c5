"""What a terminal shows of a batch."""

import io

import pytest
from rich.console import Console

from coterie.batch.concurrency import Concurrency
from coterie.batch.tally import Tally
from coterie.batch.types import Answer, Fault, Outcome
from coterie.batch.waiting import Waiting
from coterie.cli import console
from coterie.cli.batch_progress import BatchProgress


def test_what_is_waited_for_is_shown_while_nothing_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, waiting = io.StringIO(), Waiting()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "err", lambda: terminal)
    with BatchProgress(Tally(9), Concurrency(50), waiting) as progress:
        progress.add(Outcome("a", Answer(400, "id", {})))
        with waiting.counted(Fault("unavailable", "nothing answers [/here]")):
            progress._bar.refresh()
            assert "1 waiting to be sent again: nothing answers [/here]" in screen.getvalue()
        screen.truncate(0)
        progress._bar.refresh()
        assert "waiting" not in screen.getvalue()
    assert "1 failed" in screen.getvalue()
