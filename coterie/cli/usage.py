"""`coterie usage`: what tenants used, summed up from the usage records of this node."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from coterie.cli.console import err, out, print_json
from coterie.config import load_config
from infra.errors import ConfigError
from infra.telemetry.usage_totals import GROUP_KEYS, Totals, sum_usage

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration file, whose telemetry.usage_dir is read.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of usage records, such as one collected from several nodes.",
)
@click.option(
    "--by",
    default="tenant,model",
    show_default=True,
    help=f"Group by these, comma-separated: {', '.join(GROUP_KEYS)}.",
)
@click.option("--since", type=click.DateTime(_FORMATS), help="Ended at or after (UTC).")
@click.option("--until", type=click.DateTime(_FORMATS), help="Ended before (UTC).")
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
def usage_command(
    file: Path | None,
    directory: Path | None,
    by: str,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Sum up requests and tokens.

    Records are written where telemetry.usage_dir names a directory, on each node its
    own. A record that was copied twice counts once.

    \b
    Examples:
      coterie usage -f cluster.yaml --since 2026-11-01 --by tenant,day
      coterie usage --dir collected/ --by tenant --json
    """
    keys = [key.strip() for key in by.split(",") if key.strip()]
    totals = sum_usage(
        directory or _configured(file),
        keys,
        since_s=0.0 if since is None else since.replace(tzinfo=UTC).timestamp(),
        until_s=float("inf") if until is None else until.replace(tzinfo=UTC).timestamp(),
    )
    if as_json:
        print_json(_plain(totals, keys))
    else:
        out().print(_table(totals, keys))
    if totals.num_unreadable_lines:
        err().print(f"{totals.num_unreadable_lines} lines could not be read")


def _configured(file: Path | None) -> Path:
    directory = load_config(file).telemetry.usage_dir
    if directory is None:
        raise ConfigError(
            "telemetry.usage_dir is not set, so no records are kept; set it, or give --dir"
        )
    return directory.expanduser()


def _plain(totals: Totals, keys: list[str]) -> list[dict[str, str | int]]:
    return [
        dict(zip(keys, group, strict=True)) | asdict(total)
        for group, total in sorted(totals.group_to_total.items())
    ]


def _table(totals: Totals, keys: list[str]) -> Table:
    table = Table(*keys, box=None)
    for name in ("requests", "prompt tokens", "cached", "output tokens"):
        table.add_column(name, justify="right")
    for group, total in sorted(totals.group_to_total.items()):
        table.add_row(*group, *(f"{count:,}" for count in asdict(total).values()))
    return table
