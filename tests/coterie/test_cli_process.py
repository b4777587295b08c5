"""The program itself, in a process of its own: exit codes, a terminal, Ctrl-C."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coterie import errors
from tests.builders.fake_inference import REPLY, FakeInference

PROGRAM = [sys.executable, "-m", "coterie.cli.main"]
# Standard input becomes the controlling terminal, so that Ctrl-C is a signal.
AT_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from coterie.cli.main import main
main()
"""
PATIENCE_S = 20


class Terminal:
    """A person at a terminal that runs the program."""

    def __init__(self, process: "subprocess.Popen[bytes]", controller: int) -> None:
        self._process = process
        self._controller = controller
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def read_until(self, pattern: str) -> str:
        """What has been shown since the last call, up to the pattern."""
        while not (match := re.search(pattern, self._seen)):
            self._seen += self._more()
        shown, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return shown

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def _more(self) -> str:
        data = os.read(self._controller, 4096)
        assert data, f"the program ended after {self._seen!r}"
        return data.decode()


@contextmanager
def terminal(*args: str, address: str, **environment: str) -> Iterator[Terminal]:
    controller, own = pty.openpty()
    env = {**os.environ, "COTERIE_ADDRESS": address, "TERM": "xterm", **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, *args],
        stdin=own,
        stdout=own,
        stderr=own,
        env=env,
        start_new_session=True,
    )
    os.close(own)
    try:
        yield Terminal(process, controller)
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _run(*args: str, address: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *args],
        env={**os.environ, "COTERIE_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_program_itself_streams_and_ends_with_the_right_code(
    address: str, fake: FakeInference
) -> None:
    run = _run("generate", "Once", address=address)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{REPLY}\n", "")
    fake.failure = errors.CapacityError("all full")
    run = _run("generate", "Once", address=address)
    assert (run.returncode, run.stdout) == (4, "\n")
    assert run.stderr.splitlines()[0] == "error: all full"


def test_client_commands_load_nothing_heavy() -> None:
    modules = ["main", "answer", "chat", "generate", "models", "tokenize"]
    imports = ", ".join(f"coterie.cli.{module}" for module in modules)
    code = f"import sys, {imports}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {"ray", "torch", "vllm", "fastapi", "pydantic", "transformers", "numpy"}
    assert heavy.isdisjoint(run.stdout.split())


@pytest.mark.timeout(60)
def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(
    address: str, fake: FakeInference
) -> None:
    fake.hold_after = 5
    with terminal("chat", address=address) as person:
        assert "fake at 127.0.0.1" in person.read_until("> ")
        person.type("One\n")
        person.read_until("there")
        person.type("\x03")
        assert "(stopped)" in person.read_until("> ")
        assert fake.ended_early.wait(PATIENCE_S)
        fake.hold_after = None
        person.type("Two\n")
        assert REPLY in person.read_until("tokens/s")
        person.read_until("> ")
        person.type("\x04")
        assert person.wait() == 0
    contents = [message.content for message in fake.requests[-1].messages]
    assert contents == ["One", "there", "Two"]


@pytest.mark.timeout(60)
def test_commands_of_a_conversation_are_for_who_types_them(
    address: str, fake: FakeInference
) -> None:
    with terminal("chat", address=address) as person:
        for text in ("One", "Two"):
            person.read_until("> ")
            person.type(f"{text}\n")
            person.read_until("tokens/s")
        person.read_until("> ")
        person.type("/clear\n")
        assert "(forgotten)" in person.read_until("> ")
        person.type("Three\n")
        person.read_until("tokens/s")
        person.read_until("> ")
        person.type("/exit\n")
        assert person.wait() == 0
    sent = [
        [m.content for m in each.messages]
        for each in fake.requests
        if hasattr(each, "messages")
    ]
    assert sent == [["One"], ["One", REPLY, "Two"], ["Three"]]


@pytest.mark.timeout(60)
def test_a_failed_message_leaves_the_conversation_open(
    address: str, fake: FakeInference
) -> None:
    with terminal("chat", address=address) as person:
        person.read_until("> ")
        fake.failure = errors.CapacityError("all full")
        person.type("One\n")
        assert "all full" in person.read_until("> ")
        fake.failure = None
        person.type("Two\n")
        assert REPLY in person.read_until("tokens/s")
    assert [message.content for message in fake.requests[-1].messages] == ["Two"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)]
)
def test_colours_appear_on_a_terminal_unless_no_color_is_set(
    environment: dict[str, str], is_coloured: bool, address: str
) -> None:
    with terminal("models", "-m", "none", address=address, **environment) as person:
        shown = person.read_until("hint")
        assert ("\x1b[1;31m" in shown) is is_coloured
        assert person.wait() == 2
