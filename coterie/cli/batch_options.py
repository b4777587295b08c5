"""The options of `coterie batch`, gathered into a value."""

from dataclasses import dataclass
from pathlib import Path

import click

from coterie.cli.gathering import gathering
from coterie.cli.security_options import security_for
from coterie.http_server import HttpServer
from coterie.security import Security

_DEFAULT_URL = "http://localhost:8000/v1"


@dataclass(frozen=True)
class BatchOptions:
    """Where the requests go, and what is borne on the way."""

    url: str
    timeout_s: float
    errors: Path | None
    max_concurrency: int
    max_retries: int
    is_json: bool

    def server(self, security: Security) -> HttpServer:
        """The server. Raises as `HttpServer` does."""
        return HttpServer(self.url, security_for(self.url, security), self.timeout_s)


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
        "got no answer; once at most where the engine failed. A server that is silent for "
        "as long as these retries take, at most 10 minutes (1 before its first answer), "
        "ends the batch.",
    ),
    click.option("--json", "is_json", is_flag=True, help="Print the totals as JSON."),
)


batch_options = gathering("batch_options", BatchOptions, _OPTIONS)
"""Gives a command these options; it receives them as `batch_options`."""
