"""`coterie config`: check a configuration file, show what is in effect."""

from pathlib import Path

import click

from coterie.cli.console import print_json, write
from coterie.config import Config, config_source, load_config
from infra.section_text import render_section


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration file (YAML). Default: $COTERIE_CONFIG, else the built-in laptop one.",
)
@click.option("--show", "mode", flag_value="show", default=True, help="Show it (the default).")
@click.option(
    "--check", "mode", flag_value="check", help="Check it alone, and say what it serves."
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON.")
def config_command(file: Path | None, mode: str, as_json: bool) -> None:
    """Show the effective configuration: every key, what it means, its value.

    The output is a configuration file itself; `# default` marks values that
    the file does not give. A file that does not hold ends with exit code 2
    and one line for each problem.

    \b
    Examples:
      coterie config > coterie.yaml           a file to begin with
      coterie config -f coterie.yaml --check  before `coterie up`
    """
    config = load_config(file)
    if mode == "check":
        _say_valid(config, config_source(file), as_json)
    elif as_json:
        print_json(config.model_dump(mode="json"))
    else:
        write(f"# Effective configuration, from {config_source(file)}.\n")
        write(render_section(config))


def _say_valid(config: Config, source: str, as_json: bool) -> None:
    names = [model.name for model in config.models]
    if as_json:
        print_json({"valid": True, "source": source, "models": names})
    else:
        write(f"{source} is valid; it serves {', '.join(names)}\n")
