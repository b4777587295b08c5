"""Ctrl-C while the blocking client is at work."""

import contextvars
import os
import signal
import subprocess
import sys
import threading

import pytest

from coterie.uninterrupted import ReadAhead, is_interruptible, uninterrupted
from tests.builders.fake_inference import FakeInference

NUM_INTERRUPTS = 60
PATIENCE_S = 20

# It breaks into calls at random moments, and reports whether the client can do another.
INTERRUPTED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, threading, time
from coterie import Client

client = Client(os.environ["COTERIE_ADDRESS"], max_retries=0)
due, fired = os.pipe(), []
random.seed(7)

def interrupt():
    while os.read(due[0], 1):
        end = time.perf_counter() + random.uniform(0, 2e-3)
        while time.perf_counter() < end:
            pass
        os.kill(os.getpid(), signal.SIGINT)
        fired.append(1)

def streams():
    while True:
        with client.chat("One") as stream:
            list(stream)

def calls():
    while True:
        client.chat_unary("One")

def work():
    with client.chat("Two") as stream:
        list(stream)
    client.model("")
    done.append(1)

threading.Thread(target=interrupt, daemon=True).start()
for number in range(int(sys.argv[2])):
    try:
        os.write(due[1], b"x")
        {"streams": streams, "calls": calls}[sys.argv[1]]()
    except KeyboardInterrupt:
        pass
    done = []
    after = threading.Thread(target=work, daemon=True)
    after.start()
    after.join(10)
    if not done:
        print(f"dead after {number + 1} interrupts", flush=True)
        os._exit(1)
print("alive", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["streams", "calls"])
def test_the_client_outlives_every_ctrl_c(kind: str, address: str, fake: FakeInference) -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AGAIN_AND_AGAIN, kind, str(NUM_INTERRUPTS)],
        env={**os.environ, "COTERIE_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.stdout, run.stderr, run.returncode) == ("alive\n", "", 0)
    assert fake.requests


def test_a_call_that_ctrl_c_breaks_off_ends_in_the_cluster_too(
    address: str, fake: FakeInference
) -> None:
    fake.hold_after = 1
    code = (
        "import os, signal, threading; from coterie import Client\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "client = Client(os.environ['COTERIE_ADDRESS'])\n"
        "try: client.chat_unary('One')\n"
        "except KeyboardInterrupt: print(client.model().name)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "COTERIE_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("fake\n", "")
    assert fake.ended_early.wait(PATIENCE_S)


def test_work_leaves_the_main_thread_alone_and_takes_its_context_along() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("mine")

    def seen() -> tuple[threading.Thread, str]:
        return threading.current_thread(), variable.get()

    thread, value = uninterrupted(seen)
    assert (thread is not threading.current_thread()) is is_interruptible()
    assert value == "mine"


def test_work_of_other_threads_stays_in_them() -> None:
    found = []

    def work() -> None:
        found.append(uninterrupted(threading.current_thread))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [thread]


def test_what_work_raises_is_raised_to_who_waits() -> None:
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


def test_values_come_in_order_and_the_end_stays_the_end() -> None:
    ahead = ReadAhead(iter([1, 2]).__next__)
    assert [ahead.next(), ahead.next()] == [1, 2]
    for _ in range(2):
        with pytest.raises(StopIteration):
            ahead.next()


@pytest.mark.skipif(not is_interruptible(), reason="signals reach the main thread alone")
def test_an_interrupted_wait_loses_no_value() -> None:
    may_go_on = threading.Event()
    numbers = iter([0, 1, 2])

    def number() -> int:
        may_go_on.wait(PATIENCE_S)
        return next(numbers)

    ahead = ReadAhead(number)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ahead.next()
    timer.join()
    may_go_on.set()
    assert [ahead.next() for _ in range(3)] == [0, 1, 2]
