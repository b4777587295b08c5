"""`coterie models`: what is served."""

from collections.abc import Sequence

import click
from rich.table import Table

from coterie.cli import console
from coterie.cli.client_options import ClientOptions, client_options
from coterie.types import Model


@click.command("models")
@client_options
def models_command(client_options: ClientOptions) -> None:
    """List the served models and adapters (or the one named by --model).

    \b
    Examples:
      coterie models
      coterie models --json | jq -r .name
    """
    with client_options.open() as client:
        if client_options.model:
            found = [client.model(client_options.model, timeout_s=client_options.timeout_s)]
        else:
            found = list(client.models(timeout_s=client_options.timeout_s))
    if client_options.is_json:
        for model in found:
            console.print_json(model)
    else:
        console.out().print(_table(found))


def _table(models: Sequence[Model]) -> Table:
    table = Table("NAME", box=None, pad_edge=False, header_style="bold")
    for title in ("CONTEXT", "REPLICAS"):
        table.add_column(title, justify="right")
    for title in ("CHAT", "MODEL"):
        table.add_column(title)
    for model in models:
        adapter = f"{model.reference}, adapts {model.base_model}"
        table.add_row(
            model.name,
            str(model.max_model_len),
            str(model.num_ready_replicas),
            "yes" if model.has_chat_template else "no",
            adapter if model.base_model else model.reference,
        )
    return table
