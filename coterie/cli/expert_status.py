"""What `coterie status` shows of a model's expert tier."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coterie.cli.expert_heat import MAX_CELLS, MISSING, heat_rows


def print_tier(console: Console, model: str, tier: dict[str, Any]) -> None:
    """`tier` is what `experts.director.status.status_of` says."""
    console.print(Text.assemble("\n", (f"experts of {model}", "bold"), f": {_headline(tier)}"))
    if tier["hosts"]:
        console.print(_hosts(tier))
        console.print(_heat(tier, console.width))


def _headline(tier: dict[str, Any]) -> str:
    state = tier["state"] + (f" ({tier['message']})" if tier["message"] else "")
    size = f"{tier['num_layers']} layers of {tier['num_experts']} experts"
    return f"{state}; {size}, {tier['num_slots']} slots a layer{_last(tier['last_rebalance'])}"


def _last(last: dict[str, Any] | None) -> str:
    if last is None:
        return ""
    trouble = f", not finished: {last['trouble']}" if last["trouble"] else ""
    return (
        f"; {last['num_moves']} moves {last['begun_ago_s']:.0f} s ago"
        f" ({last['reason']}{trouble})"
    )


def _hosts(tier: dict[str, Any]) -> Table:
    table = Table("host", "slots", "copies", "busy", "wait", "engines", "requests", box=None)
    for host in tier["hosts"]:
        slots = host["num_slots"] * tier["num_layers"]
        table.add_row(
            host["host"] + (" (leaving)" if host["is_leaving"] else ""),
            str(slots),
            str(host["num_copies"]),
            f"{host['busy_share']:.0%}",
            f"{1000 * host['queue_s']:.1f} ms",
            str(host["num_engines"]),
            str(host["num_requests"]),
        )
    return table


def _heat(tier: dict[str, Any], width: int) -> Table:
    """Tokens a second, and beside them how many copies there are."""
    max_cells = max(8, min(MAX_CELLS, width - 24))
    rows = heat_rows(tier["tokens_per_s"], tier["num_copies"], max_cells=max_cells)
    peak = max((max(row) for row in tier["tokens_per_s"]), default=0.0)
    cells = "an expert a cell" if tier["num_experts"] <= max_cells else "some experts a cell"
    title = f"tokens/s, {cells}, █ = {peak:.3g}, {MISSING} = no copy"
    table = Table("layer", title, "copies", box=None)
    per_layer = [sum(row) for row in tier["num_copies"]]
    for name, heat in rows:
        first, _, last = name.partition("-")
        counts = per_layer[int(first) : int(last or first) + 1]
        low, high = min(counts), max(counts)
        table.add_row(name, heat, str(low) if low == high else f"{low}-{high}")
    return table
