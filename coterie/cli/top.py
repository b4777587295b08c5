"""`coterie top`: what the cluster does, live."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coterie.cli.console import out
from coterie.cli.overview import EngineLine, Look, ModelView, Overview, overview
from coterie.config import load_config
from deployments import local_cluster

_BAR_CELLS = 10
_UNKNOWN = "-"


@click.command("top")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration file that `coterie up` was called with.",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look, and what rates are averaged over.",
)
@click.option("--once", is_flag=True, help="Show one picture and end.")
@click.option("--json", "as_json", is_flag=True, help="Print each picture as one line of JSON.")
def top_command(file: Path | None, every_s: float, once: bool, as_json: bool) -> None:
    """Show what each model's replicas do at the moment, until Ctrl-C.

    \b
    OPEN       calls that an engine works on
    KV         share of its KV cache that they hold
    PROMPT/S   prompt tokens a second, with those from the prefix cache
    OUTPUT/S   output tokens a second
    HITS       share of the prompt tokens that came from the prefix cache
    TPOT       time from token to token of a sequence
    ACCEPTED   share of the drafts' tokens that were right
    """
    section = load_config(file).cluster
    if section.address is None:
        local_cluster.use_auth_token(section)
    # Ray must be imported after use_auth_token.
    from deployments import operate  # noqa: PLC0415

    screen = Screen(out(), as_json=as_json, is_live=not once)
    with operate.connected(section), screen, suppress(KeyboardInterrupt):
        before: Look | None = None
        while True:
            states = operate.deployment_states(section.app_name, with_details=True)
            now = Look(time.monotonic(), states)
            # Rates want two looks.
            if before is not None or not once:
                screen.show(overview(before, now))
            if before is not None and once:
                return
            before = now
            time.sleep(every_s)


class Screen:
    """Where pictures go: on a terminal each takes the place of the one before."""

    def __init__(self, console: Console, *, as_json: bool, is_live: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._live = Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._is_live = is_live and console.is_terminal and not as_json

    def __enter__(self) -> "Screen":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def show(self, view: Overview) -> None:
        """The next picture."""
        if self._as_json:
            self._console.print_json(data=asdict(view), indent=None)
        elif self._is_live:
            self._live.update(picture(view), refresh=True)
        else:
            self._console.print(picture(view))


def picture(view: Overview) -> RenderableType:
    """A table for each model, below a line for the gateways."""
    gateways = f"{view.num_gateways}/{view.num_gateways_wanted} gateways"
    parts: list[RenderableType] = [Text.assemble(("coterie", "bold"), f"  {gateways}")]
    for model in view.models:
        parts += [Text(), _headline(model), _engines(model.engines)]
    if not view.models:
        parts.append(Text("no model is served"))
    return Group(*parts)


def _headline(model: ModelView) -> Text:
    facts = [f"{model.num_running}/{model.num_wanted} engines", f"{model.num_held} waiting"]
    if model.hosts_busy:
        facts.append(f"expert hosts busy {_shares(model.hosts_busy)}")
    if model.drafts_busy:
        facts.append(f"draft replicas busy {_shares(model.drafts_busy)}")
    return Text.assemble((model.name, "bold"), f"  {', '.join(facts)}")


def _engines(lines: Sequence[EngineLine]) -> Table:
    columns = ("ENGINE", "OPEN", "KV", "PROMPT/S", "OUTPUT/S", "HITS", "TPOT", "ACCEPTED")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for line in lines:
        table.add_row(
            line.replica_id,
            str(line.num_open),
            f"{_bar(line.kv_usage)} {line.kv_usage:4.0%}",
            _number(line.prompt_tokens_per_s),
            _number(line.output_tokens_per_s),
            _percent(line.hit_rate),
            f"{1000 * line.tpot_s:.0f} ms" if line.tpot_s else _UNKNOWN,
            _percent(line.acceptance),
        )
    return table


def _bar(share: float) -> str:
    filled = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
    return "█" * filled + "░" * (_BAR_CELLS - filled)


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{share:.0%}"
