"""`coterie distill`: a small draft model trained to foresee what a larger one says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coterie.cli.console import err, out, print_json
from coterie.cli.local_model import local_model
from coterie.cli.stages import Stages
from deployments.models.distill.distilling import distill_into
from deployments.models.distill.prompts import Prompts, default_prompts, file_prompts
from deployments.models.distill.report import REPORT_NAME, Acceptance, DistillReport
from deployments.models.distill.settings import DistillSettings
from deployments.models.distill.workplace import is_begun

_SHOWN_POSITIONS = 4


@click.command("distill")
@click.argument("target")
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--layers",
    "num_layers",
    default=DistillSettings.num_layers,
    show_default=True,
    help="Layers of the draft, which begin as some of the target's.",
)
@click.option(
    "--vocabulary",
    default=DistillSettings.vocabulary,
    show_default=True,
    metavar="TOKENS",
    help="How many tokens the draft can say: those the target says most. 0: all.",
)
@click.option(
    "--minutes",
    default=DistillSettings.minutes,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="How long all of it may take, over all runs if it is interrupted.",
)
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the target is asked, a prompt to a line, or with empty lines between them. "
    "Default: questions, code to edit and text to quote.",
)
@click.option("--seed", default=0, show_default=True, help="Of prompts, samples and order.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON.")
def distill_command(
    target: str, out_dir: Path, prompts_file: Path | None, as_json: bool, **chosen: Any
) -> None:
    """Train a small draft model for TARGET, in the directory OUT_DIR.

    A draft proposes tokens that TARGET then verifies many at a time (speculative
    decoding): the more of them it foresees, the faster TARGET speaks, and what it says
    stays the same. TARGET is a built-in name, a directory with safetensors, or a GGUF
    file, of a Llama-like model (Llama, Mistral, Qwen2, Qwen3).

    TARGET answers prompts, and its distribution at each token is kept. Some of its
    layers, with a head of the tokens that it says most often, are then trained to
    foresee these answers. On two cores and without a GPU, SmolLM2-135M takes the 55
    minutes that it is given; more time or more cores give a better draft.

    Interrupted at any moment, the same command goes on from where it was: what is done
    lies in a directory beside OUT_DIR, and is removed at the end. OUT_DIR becomes a
    checkpoint of its kind, with its tokenizer. If the vocabulary is reduced, its
    `d2t` tells the tokens of the head's rows. distill.json in it has the settings, the
    losses, and how many tokens in a row are accepted on prompts that were held out.

    \b
    Examples:
      coterie distill smollm2-135m-instruct ./draft
      coterie distill ./my-llama ./my-draft --prompts questions.txt --minutes 240
    """
    stages = Stages(quiet=as_json)
    settings = DistillSettings(**chosen)
    with stages.stage(f"model files of {target}"):
        directory = local_model(target, stages)
    with stages.stage("prompts"):
        prompts = _prompts(prompts_file, settings)
    if is_begun(out_dir) and not as_json:
        err().print(f"  going on with what was begun for {out_dir}", style="dim")
    try:
        report = distill_into(out_dir, directory, prompts, settings, stages, stages.stage)
    except KeyboardInterrupt:
        err().print("  interrupted; the same command goes on from here", style="dim")
        raise
    if as_json:
        print_json(asdict(report))
        return
    out().print(_table(report))
    err().print(
        f"{out_dir} is a draft for {target}; {REPORT_NAME} in it has these figures",
        style="dim",
    )


def _prompts(path: Path | None, settings: DistillSettings) -> Prompts:
    if path is None:
        return default_prompts(settings.seed, settings.num_held_out)
    return file_prompts(path, settings.seed, settings.num_held_out)


def _table(report: DistillReport) -> Table:
    """Acceptance by task, where answers begin and anywhere in them: the first positions, and
    the mean number of accepted tokens."""
    positions = [f"TOKEN {number + 1}" for number in range(_SHOWN_POSITIONS)]
    columns = ("ACCEPTED", *positions, "IN A ROW", "SAYABLE")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for task, anywhere in report.acceptance.items():
        covered = f"{report.coverage[task]:.0%}"
        table.add_row(task, *_cells(anywhere), covered)
        table.add_row(f"{task}, beginnings", *_cells(report.beginnings[task]), "")
    return table


def _cells(found: Acceptance) -> list[str]:
    rates = [f"{rate:.0%}" for rate in found.rates[:_SHOWN_POSITIONS]]
    return [*rates, f"{found.mean_accepted:.2f} of 8"]
