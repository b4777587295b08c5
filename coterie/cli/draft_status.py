"""What `coterie status` shows of a model's drafts, and of the replicas that make them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_drafts(console: Console, details: Iterable[Mapping[str, Any]]) -> None:
    """`details` are of all replicas of all deployments, as they say themselves."""
    details = list(details)
    for model, total in _totals(details):
        said = f": {_headline(total)}"
        console.print(Text.assemble("\n", (f"drafts of {model}", "bold"), said))
        replicas = [d for d in details if d["model"] == model and "num_answers" in d]
        if replicas:
            console.print(_replicas(replicas))


def _totals(details: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Counter[str]]]:
    """By model, over its engines."""
    totals: dict[str, Counter[str]] = {}
    for detail in details:
        if detail.get("drafts") is not None:
            totals.setdefault(detail["model"], Counter()).update(detail["drafts"])
    yield from totals.items()


def _headline(total: Counter[str]) -> str:
    if not total["num_tokens"]:
        return "none that was worth verifying"
    rate = total["num_accepted"] / total["num_tokens"]
    per_step = 1 + total["num_accepted"] / total["num_drafts"]
    return (
        f"{rate:.0%} of {total['num_tokens']} tokens accepted, "
        f"{per_step:.1f} tokens a step where there was one"
    )


def _replicas(replicas: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("draft replica", "cores", "busy", "engines", "answers", "start-up", box=None)
    for replica in replicas:
        table.add_row(
            replica["replica_id"],
            ", ".join(map(str, replica["cores"] or ())) or "any",
            f"{replica['busy_s']:.0f} s of {replica['running_s']:.0f} s",
            str(replica["num_engines"]),
            str(replica["num_answers"]),
            f"{replica['startup_s']['total']:.1f} s",
        )
    return table
