"""What becomes of work whose client is listened to meanwhile."""

import asyncio
import logging
from typing import Any

import pytest

from deployments.gateway.http.exchange import Exchange

pytestmark = pytest.mark.asyncio


async def send(_: Any) -> None:
    """Nobody is there."""


async def leave() -> Any:
    """The client is gone."""
    return {"type": "http.disconnect"}


async def break_off() -> Any:
    """The server cannot tell what the client does."""
    raise ConnectionResetError("the socket broke")


class Work:
    """Waits for ever; fails as it is ended, if it is to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.has_ended = False

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended = True
            if self.failure is not None:
                raise self.failure


def exchange(receive: Any) -> Exchange:
    return Exchange({"type": "http", "headers": []}, receive, send)


async def test_what_fails_after_the_client_left_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work(ZeroDivisionError("in the last step"))
    with caplog.at_level(logging.WARNING):
        await exchange(leave).run_while_connected(work())
    assert work.has_ended
    assert "in the last step" in caplog.text


async def test_leaving_alone_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    await exchange(leave).run_while_connected(work())
    assert (work.has_ended, caplog.records) == (True, [])


async def test_a_failure_to_listen_ends_the_work_and_is_raised() -> None:
    work = Work()
    with pytest.raises(ConnectionResetError, match="the socket broke"):
        await exchange(break_off).run_while_connected(work())
    assert work.has_ended
