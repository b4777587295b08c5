"""`coterie down`: take the application away, and end a local cluster."""

from pathlib import Path

import click

from coterie.cli.console import err, print_json
from coterie.cli.stages import Stages
from coterie.config import load_config
from coterie.errors import CoterieError
from deployments import local_cluster, metadata_server


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration file that `coterie up` was called with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON.")
def down_command(file: Path | None, as_json: bool) -> None:
    """Stop serving. Open streams get their drain time first.

    A Ray cluster that `coterie up` started is ended; of a cluster that it
    joined only the application is removed. Nothing running is no error.
    """
    section = load_config(file).cluster
    stages = Stages(quiet=as_json)
    cluster = None
    is_empty = False
    if section.address is None:
        local_cluster.use_auth_token(section)
        cluster = local_cluster.find(section)
        if cluster is None:
            metadata_server.stop(section)
            _say(as_json, was_running=False)
            return
    if cluster is None or cluster.is_reachable:
        # Ray must be imported after use_auth_token.
        from deployments import operate  # noqa: PLC0415

        try:
            with operate.connected(section), stages.stage("draining"):
                operate.remove(section)
            is_empty = True
        except CoterieError as error:
            if cluster is None:
                raise
            # Its processes can be ended all the same.
            err().print(f"nothing was drained: {error}")
    if cluster is not None:
        with stages.stage("Ray"):
            # Ray takes seconds to end its processes one after another; once the
            # application is gone there is nothing in them to be put in order.
            cluster.kill() if is_empty else cluster.stop()
            local_cluster.forget(section)
            metadata_server.stop(section)
    _say(as_json, was_running=True)


def _say(as_json: bool, *, was_running: bool) -> None:
    if as_json:
        print_json({"was_running": was_running})
    else:
        err().print("stopped" if was_running else "nothing is running")
