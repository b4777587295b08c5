"""A command group that imports a command only when it is called."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click
from click.exceptions import NoSuchCommand

from coterie.cli.console import guard
from coterie.errors import ConfigError

_OWN_PACKAGES = ("coterie", "deployments", "router", "cache", "experts", "infra")


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is (`module:attribute`) and its line in the overview."""

    where: str
    summary: str


class LazyGroup(click.Group):
    """Commands by section; the overview is printed without importing them.

    Failures of any command end in `console.guard`.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, LazyCommand]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._lazy = {
            name: cmd for section in sections.values() for name, cmd in section.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the overview."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of that name."""
        lazy = self._lazy.get(cmd_name)
        return None if lazy is None else _load(cmd_name, lazy)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown name is refused with the nearest known one."""
        if args[0] not in self._lazy and not ctx.resilient_parsing:
            raise NoSuchCommand(args[0], possibilities=self._lazy, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, a section at a time."""
        width = max(map(len, self._lazy))
        for title, commands in self._sections.items():
            rows = [(name.ljust(width), cmd.summary) for name, cmd in commands.items()]
            with formatter.section(title):
                formatter.write_dl(rows)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, but failures of ours become messages and exit codes."""
        command: Callable[..., Any] = super().main
        if not kwargs.pop("standalone_mode", True):
            return command(*args, standalone_mode=False, **kwargs)
        sys.exit(guard(lambda: command(*args, standalone_mode=False, **kwargs)))


def _load(name: str, lazy: LazyCommand) -> click.Command:
    module_name, _, attribute = lazy.where.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OWN_PACKAGES:
            raise
        raise ConfigError(
            f"`coterie {name}` needs the package {missing!r}; install the serving "
            "packages: pip install 'coterie[cpu]', or 'coterie[gpu]' on NVIDIA GPUs"
        ) from error
    command = getattr(module, attribute)
    assert isinstance(command, click.Command), lazy.where
    return command
