"""The options of every command that talks to a cluster."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from coterie.cli.security_options import security_options
from coterie.client import Client
from coterie.connection import DEFAULT_ADDRESS
from coterie.security import Security


@dataclass(frozen=True)
class ClientOptions:
    """Which cluster and model to talk to, for how long, and in which form to
    print the answer."""

    address: str
    model: str
    timeout_s: float | None
    is_json: bool
    security: Security

    def open(self) -> Client:
        """A client of that cluster; close it."""
        return Client(self.address, **self.security.keywords)


_OPTIONS = (
    click.option(
        "--address",
        envvar="COTERIE_ADDRESS",
        show_envvar=True,
        default=DEFAULT_ADDRESS,
        show_default=True,
        metavar="HOST:PORT",
        help="The cluster's gRPC door.",
    ),
    click.option(
        "-m",
        "--model",
        default="",
        metavar="NAME",
        help="A served model or adapter; not needed where there is only one.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Longest time that the answer may take. Default: the cluster's limit.",
    ),
    click.option(
        "--json", "is_json", is_flag=True, help="Print JSON, one object a line, for scripts."
    ),
)


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it receives them as `client_options`."""

    @security_options
    @functools.wraps(command)
    def gathered(
        *,
        address: str,
        model: str,
        timeout_s: float | None,
        is_json: bool,
        security: Security,
        **rest: Any,
    ) -> None:
        options = ClientOptions(address, model, timeout_s, is_json, security)
        command(client_options=options, **rest)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered
