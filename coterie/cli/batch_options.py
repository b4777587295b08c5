"""The options of `coterie batch`, gathered into a value."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from coterie.http_server import HttpServer

_DEFAULT_URL = "http://localhost:8000/v1"


@dataclass(frozen=True)
class BatchOptions:
    """Where the requests go, and what is borne on the way."""

    url: str
    api_key: str | None
    ca_file: Path | None
    timeout_s: float
    errors: Path | None
    max_concurrency: int
    max_retries: int
    is_json: bool

    def server(self) -> HttpServer:
        """The server. Raises InvalidArgumentError for a URL of another kind."""
        return HttpServer(self.url, self.api_key, self.timeout_s, self.ca_file)


_OPTIONS = (
    click.option(
        "--url",
        envvar="COTERIE_URL",
        show_envvar=True,
        default=_DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="An OpenAI-style server: its .../v1.",
    ),
    click.option(
        "--api-key",
        envvar="COTERIE_API_KEY",
        show_envvar=True,
        metavar="KEY",
        help="Sent as a bearer token.",
    ),
    click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Certificates (PEM) to trust, instead of the system's.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=3600.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest time that one answer may take, its waiting at the server included.",
    ),
    click.option(
        "--errors",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        metavar="FILE",
        help="Write the requests that failed here instead of among the answers.",
    ),
    click.option(
        "--max-concurrency",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        metavar="N",
        help="Most requests under way at a time.",
    ),
    click.option(
        "--max-retries",
        type=click.IntRange(min=0),
        default=16,
        show_default=True,
        metavar="N",
        help="How often a request is sent again that the server had no room for, or that "
        "got no answer.",
    ),
    click.option("--json", "is_json", is_flag=True, help="Print the totals as JSON."),
)


def batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it receives them as `batch_options`."""

    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        own = {field.name: values.pop(field.name) for field in fields(BatchOptions)}
        command(batch_options=BatchOptions(**own), **values)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered
