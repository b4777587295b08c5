"""`coterie`: the entry point, and what there is to call."""

from typing import Any

import click

from coterie.cli.console import EXIT_CODES
from coterie.cli.lazy import LazyCommand, LazyGroup

SECTIONS = {
    "Run a cluster": {
        "up": LazyCommand(
            "coterie.cli.up:up_command", "Start serving, and wait until it does."
        ),
        "down": LazyCommand("coterie.cli.down:down_command", "Stop serving."),
        "status": LazyCommand(
            "coterie.cli.status:status_command", "Show what runs, and how it is."
        ),
        "top": LazyCommand("coterie.cli.top:top_command", "Show what it does, live."),
        "explain": LazyCommand(
            "coterie.cli.explain:explain_command", "Show why a request went where it did."
        ),
        "config": LazyCommand(
            "coterie.cli.config:config_command", "Check and show the configuration."
        ),
        "manifests": LazyCommand(
            "coterie.cli.manifests:manifests_command", "Write manifests for Kubernetes."
        ),
        "usage": LazyCommand("coterie.cli.usage:usage_command", "Sum up what tenants used."),
        "key": LazyCommand("coterie.cli.key:key_command", "Make and revoke API keys."),
        "carve": LazyCommand(
            "coterie.cli.carve:carve_command", "Make a mixture of experts of a dense model."
        ),
        "distill": LazyCommand(
            "coterie.cli.distill:distill_command", "Train a small draft for a model."
        ),
    },
    "Use a cluster": {
        "models": LazyCommand("coterie.cli.models:models_command", "List the served models."),
        "chat": LazyCommand("coterie.cli.chat:chat_command", "Talk to a model."),
        "generate": LazyCommand("coterie.cli.generate:generate_command", "Continue a prompt."),
        "tokenize": LazyCommand(
            "coterie.cli.tokenize:tokenize_command", "Turn text into token ids."
        ),
        "detokenize": LazyCommand(
            "coterie.cli.tokenize:detokenize_command", "Turn token ids into text."
        ),
        "batch": LazyCommand(
            "coterie.cli.batch:batch_command", "Answer a file of requests into another."
        ),
        "bench": LazyCommand(
            "coterie.cli.bench:bench_command", "Measure how quickly it answers under load."
        ),
    },
}

HELP = """Serve large language models on a Ray cluster, and use them.

\b
Examples:
  coterie up                          serve the built-in model on this machine
  coterie chat                        talk to it
  coterie generate "Once upon a time" --max-tokens 40
  coterie down                        end it

\b
Environment:
  COTERIE_ADDRESS   the cluster that commands talk to, HOST:PORT
  COTERIE_URL       the server of `batch` and `bench --api openai`: its .../v1
  COTERIE_API_KEY   the key that it asks for
  COTERIE_CA_FILE   the authority of its certificate, for TLS
  COTERIE_DEBUG=1   show tracebacks
  NO_COLOR          no colours
"""

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items()
)

cli = LazyGroup(
    name="coterie",
    help=HELP,
    epilog=EPILOG,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
cli = click.version_option(package_name="coterie", message="coterie %(version)s")(cli)


def main() -> Any:
    """What the `coterie` script calls."""
    return cli.main(prog_name="coterie")


if __name__ == "__main__":
    main()
