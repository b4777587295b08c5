import logging

import pytest

from infra.progress import SILENT, LoggingProgress, Progress


def test_a_stage_is_logged_when_it_begins_and_at_every_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    progress: Progress = LoggingProgress(logging.getLogger("progress"), step=0.5)
    with caplog.at_level(logging.INFO, "progress"):
        for share in range(11):
            progress.report("reading", share / 10)
        progress.report("writing")
        progress.report("writing")
    assert caplog.messages == ["reading 0%", "reading 50%", "reading 100%", "writing"]
    assert [record.__dict__["fraction"] for record in caplog.records] == [0.0, 0.5, 1.0, None]


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    SILENT.report("anything", 0.5)
    assert capsys.readouterr() == ("", "")
