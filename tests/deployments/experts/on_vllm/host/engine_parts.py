"""Engines in processes of their own, to be killed and stopped there. No torch.

A part is told the model's digest by its pipe, before anything else.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np

from experts.transport.link import LinkHub
from tests.deployments.experts.on_vllm.host.engine_client import Client

HIDDEN = 32
MANY = [(0, 0)] * 100


@contextlib.contextmanager
def _client(pipe: Any, address: str) -> Iterator[Client]:
    with Client(address, pipe.recv()) as client:
        yield client


def ask_until_killed(pipe: Any, own: LinkHub, address: str) -> None:
    """Follows, and says after 20 answers that it works; is killed while it goes on."""
    rows = np.ones((3, HIDDEN), np.float32)
    with _client(pipe, address) as client:
        client.follow()
        number = 0
        while True:
            client.ask(0, rows, MANY, 2)
            client.answer()
            number += 1
            if number == 20:
                pipe.send("works")


def die_with_a_request_under_way(pipe: Any, own: LinkHub, address: str) -> None:
    """Sends half of what it would, is killed without reading."""
    rows = np.ones((3, HIDDEN), np.float32)
    with _client(pipe, address) as client:
        client.follow()
        for _ in range(3):
            client.ask(0, rows, MANY, 2)
        client.link.reserve(1000, 1.0)
        pipe.send("asked")
        os.kill(os.getpid(), signal.SIGKILL)


def ask_without_reading(pipe: Any, own: LinkHub, address: str) -> None:
    """Follows, fills its link with requests, and waits to be stopped or killed."""
    rows = np.ones((3, HIDDEN), np.float32)
    with _client(pipe, address) as client:
        client.follow()
        for _ in range(9):
            client.ask(0, rows, MANY, 2)
        pipe.send("asked")
        pipe.recv()
        pipe.send(client.is_hung_up_on())
