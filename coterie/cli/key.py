"""`coterie key`: API keys, made, listed and revoked in the file that gateways read."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from coterie.cli.console import err, out, print_json, write
from coterie.errors import ConfigError
from deployments.gateway.security.api_keys import KeyEntry, new_key, read_time, sha256_of
from deployments.gateway.security.key_file import changing, read_entries
from infra.section_file import parse_section
from infra.strict_yaml import Document

_FILE = click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="keys.yaml",
    show_default=True,
    help="The file of keys: `gateway.api_keys_file` of the configuration.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


class _TimeType(click.ParamType[datetime]):
    name = "TIME"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """A day or a time, in UTC where it has no zone."""
        if isinstance(value, datetime):
            return value
        try:
            return read_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def key_command() -> None:
    """Make, list and revoke the API keys that gateways ask for.

    The file holds SHA-256 digests, never a key. Gateways read it again within
    some seconds; none is restarted.

    \b
    Examples:
      coterie key new acme --label "batch jobs" --expires 2027-06-30
      coterie key list
      coterie key revoke 4f1c20aa97be
    """


@key_command.command("new")
@click.argument("tenant")
@click.option("--label", metavar="TEXT", help="What it is for, for people.")
@click.option("--expires", type=_TimeType(), help="From when on it is refused. Default: never.")
@click.option("--operator", "is_operator", is_flag=True, help="It may read /metrics as well.")
@_FILE
@_JSON
def new_key_command(
    tenant: str,
    label: str | None,
    expires: datetime | None,
    is_operator: bool,
    file: Path,
    as_json: bool,
) -> None:
    """Make a key for TENANT and print it; it is shown this once."""
    key = new_key()
    entry = _entry(
        tenant=tenant,
        sha256=sha256_of(key),
        label=label,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        expires=None if expires is None else expires.isoformat(),
        is_operator=is_operator,
    )
    with changing(file) as entries:
        entries.append(entry)
    if as_json:
        print_json({"key": key, "id": entry.key_id, "tenant": tenant})
        return
    write(f"{key}\n")
    err().print(
        f"key {entry.key_id} of {tenant} is in {file}; the key itself is nowhere, so keep it",
        style="dim",
    )


@key_command.command("list")
@_FILE
@_JSON
def list_command(file: Path, as_json: bool) -> None:
    """List the keys: whose they are and until when, not what they are."""
    entries = read_entries(file)
    if as_json:
        for entry in entries:
            plain = entry.model_dump(mode="json", exclude={"sha256"})
            print_json({"id": entry.key_id} | plain)
    else:
        out().print(_table(entries))


@key_command.command("revoke")
@click.argument("key_id", metavar="ID")
@_FILE
def revoke_command(key_id: str, file: Path) -> None:
    """Take a key out of the file, by its ID in `coterie key list`."""
    if not file.exists():
        raise ConfigError(f"{file}: there is no such file; name it with -f")
    with changing(file) as entries:
        found = [entry for entry in entries if entry.key_id == key_id]
        if not found:
            raise ConfigError(f"{file} has no key {key_id}; `coterie key list` shows all")
        entries.remove(found[0])
    err().print(f"key {key_id} of {found[0].tenant} is revoked")


def _entry(**fields: str | bool | None) -> KeyEntry:
    """As from a file, so that a bad field is told in the same words."""
    return parse_section(KeyEntry, Document("the new key", fields, {}))


def _table(entries: list[KeyEntry]) -> Table:
    table = Table("ID", "TENANT", "CREATED", "EXPIRES", "LABEL", box=None, pad_edge=False)
    now = datetime.now(UTC)
    for entry in entries:
        is_over = entry.expires is not None and entry.expires <= now
        table.add_row(
            entry.key_id,
            entry.tenant + (" (operator)" if entry.is_operator else ""),
            _when(entry.created),
            _when(entry.expires) + (" (over)" if is_over else ""),
            entry.label or "",
        )
    return table


def _when(time: datetime | None) -> str:
    return "" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
