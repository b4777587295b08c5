"""`coterie status`: what runs, and how it is."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from coterie.cli.console import err, out, print_json
from coterie.cli.draft_status import print_drafts
from coterie.cli.expert_status import print_tier
from coterie.config import load_config
from deployments import local_cluster

if TYPE_CHECKING:
    from deployments.operate import DeploymentState


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration file that `coterie up` was called with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
def status_command(file: Path | None, as_json: bool) -> None:
    """Show each deployment: its state, its replicas, their load and start-up times."""
    section = load_config(file).cluster
    if section.address is None:
        local_cluster.use_auth_token(section)
    # Ray must be imported after use_auth_token.
    from deployments import operate  # noqa: PLC0415

    with operate.connected(section):
        states = operate.deployment_states(section.app_name, with_details=True)
    if as_json:
        print_json([asdict(state) for state in states])
    elif not states:
        err().print(f"the cluster runs, but not the application {section.app_name}")
    else:
        out().print(_table(states))
        for detail in (detail for state in states for detail in state.details):
            if "experts" in detail:
                print_tier(out(), detail["model"], detail["experts"])
        print_drafts(out(), (d for state in states for d in state.details if "model" in d))
        for state in states:
            if state.message:
                err().print(f"{state.name}: {state.message}")


def _table(states: "list[DeploymentState]") -> Table:
    table = Table(
        "deployment", "state", "replicas", "open requests", "waiting", "start-up", box=None
    )
    for state in states:
        starts = [d["startup_s"] for d in state.details if "startup_s" in d]
        table.add_row(
            state.name,
            state.status.lower(),
            f"{state.num_running}/{state.num_wanted}",
            str(sum(_num_open(detail) for detail in state.details)),
            str(sum(sum(d.get("num_held", {}).values()) for d in state.details)),
            ", ".join(f"{stage} {s:.1f} s" for stage, s in starts[0].items()) if starts else "",
        )
    return table


def _num_open(detail: dict[str, Any]) -> int:
    """Calls of an engine replica; of a gateway, the places that its requests take."""
    places: dict[str, int] = detail.get("num_running", {})
    return int(detail.get("num_open_calls", 0)) + sum(places.values())
