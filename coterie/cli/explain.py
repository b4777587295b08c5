"""`coterie explain`: why a request went to its engine replica."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coterie.cli.console import out, print_json
from coterie.config import load_config
from coterie.hints import hinted
from deployments import local_cluster
from infra.errors import RequestError

Call = dict[str, Any]
"""A `router.explanation.Explanation`, as builtins."""

_STATE_WORDS = {"set_aside": "set aside", "full": "no room", "passed": ""}
_COLUMNS = {
    "prefill": "prefill",
    "host": "host",
    "queue": "queue",
    "sequences": "sequences",
    "context": "context",
    "kv_pressure": "KV",
    "adapter": "adapter",
    "session": "session",
    "affinity": "hash",
}


@click.command()
@click.argument("request_id")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration file that `coterie up` was called with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
def explain_command(request_id: str, file: Path | None, as_json: bool) -> None:
    """Show which replica took a request, and what spoke for it and the others.

    Costs are in prompt tokens that could be computed in the same time; the lowest sum
    is chosen. The id is the answer's `id`, or the `x-request-id` that was sent.
    """
    config = load_config(file)
    section = config.cluster
    if section.address is None:
        local_cluster.use_auth_token(section)
    # Ray must be imported after use_auth_token.
    from deployments import operate  # noqa: PLC0415

    with operate.connected(section):
        calls = operate.explain(section.app_name, request_id)
    if not calls:
        raise unknown_request(request_id, config.router.max_explained_requests)
    if as_json:
        print_json(calls)
        return
    for number, call in enumerate(calls, start=1):
        print_call(call, f"call {number} of {len(calls)}" if len(calls) > 1 else "")


def unknown_request(request_id: str, max_requests: int) -> RequestError:
    """What is said of an id that no gateway knows."""
    return hinted(
        RequestError(
            f"no gateway knows the request {request_id}: it has not been routed, or is none "
            f"of the latest {max_requests:,} of its model at its gateway"
        ),
        "router.max_explained_requests says how many are kept",
    )


def print_call(call: Call, number: str) -> None:
    """One call: where it went and why, what was expected, and a row for each candidate."""
    when = f"{datetime.fromtimestamp(call['decided_at_s']):%H:%M:%S}"
    policy = call["policy"]
    if call["applied"] != policy:
        policy = f"{call['applied']}, as {policy} found no prefix index"
    console = out()
    start = f"{number}, {when}" if number else when
    console.print(f"{start}: {call['model']} on {call['replica_id']}, by {policy}")
    console.print(
        f"{call['num_prompt_tokens']:,} prompt tokens: "
        f"{call['num_expected_cached_tokens']:,} expected to be cached, {_found(call)}"
    )
    console.print(_table(call["rows"]))


def _found(call: Call) -> str:
    if call["num_found_cached_tokens"] is not None:
        return f"{call['num_found_cached_tokens']:,} found"
    return "ended without an output" if call["has_ended"] else "no output yet"


def _table(rows: list[dict[str, Any]]) -> Table:
    """A column for each term that any candidate has."""
    names = [name for name in _COLUMNS if any(row["terms"][name] for row in rows)]
    table = Table("replica", "", box=None)
    for title in ("cost", *(_COLUMNS[n] for n in names), "cached", "running", "free KV"):
        table.add_column(title, justify="right")
    for row in rows:
        candidate = row["candidate"]
        outcome = row["outcome"]
        table.add_row(
            candidate["replica_id"],
            _STATE_WORDS.get(outcome, outcome),
            f"{row['cost']:,.0f}",
            *(f"{row['terms'][name]:,.0f}" for name in names),
            f"{_cached_tokens(candidate):,}",
            f"{candidate['load']['num_sequences']:,}",
            _free_kv(candidate),
            style="bold" if outcome == "chosen" else None,
        )
    return table


def _cached_tokens(candidate: dict[str, Any]) -> int:
    prefix = candidate["prefix"]
    return max(int(prefix["device_tokens"]), int(prefix["host_tokens"]))


def _free_kv(candidate: dict[str, Any]) -> str:
    """Share of the KV cache that was free; with a mark where the load was not known."""
    if candidate["kv"] is None:
        return "?"
    return f"{candidate['kv']['free_tokens'] / candidate['kv']['total_tokens']:.0%}"
