"""`coterie carve`: a dense model made into a mixture of experts."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.table import Table

from coterie.cli.console import err, out, print_json
from coterie.cli.local_model import local_model
from coterie.cli.stages import Stages
from deployments.models.carve.carving import carve_into
from deployments.models.carve.report import REPORT_NAME, CarveReport
from deployments.models.carve.settings import CarveSettings, DtypeName
from deployments.models.carve.texts import Texts, default_texts, file_texts


@click.command("carve")
@click.argument("source")
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--experts",
    "num_experts",
    default=16,
    show_default=True,
    help="Routed experts in each layer.",
)
@click.option(
    "--active",
    "num_active",
    default=12,
    show_default=True,
    help="Of these, how many compute for a token.",
)
@click.option(
    "--shared-size",
    type=int,
    metavar="NEURONS",
    help="Neurons that compute for every token. Default: a third of them.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text like what the model is for. Default: Python's language reference.",
)
@click.option("--seed", default=0, show_default=True, help="The same seed, the same model.")
@click.option(
    "--dtype",
    type=click.Choice(get_args(DtypeName)),
    help="Of the written weights. Default: that of the source.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON.")
def carve_command(
    source: str, out_dir: Path, calibration: Path | None, as_json: bool, **chosen: Any
) -> None:
    """Make a mixture of experts of the dense model SOURCE, in the directory OUT_DIR.

    SOURCE is a built-in name, a directory with safetensors, or a GGUF file, of a
    Llama-like model (Llama, Mistral, Qwen2). In each layer the feed-forward
    network's neurons are divided: those that contribute most to every token
    become a shared expert, the others are put together by the tokens that they
    contribute to. A gate is fitted to tell which experts a token would miss, and
    the output weights to make up for those that do not compute. Nothing is
    trained by gradients; SmolLM2-135M takes two to three minutes of one core.

    OUT_DIR becomes a checkpoint of the Qwen2-MoE architecture, which vLLM and
    transformers load, with the source's tokenizer, chat template and generation
    defaults. It appears whole or not at all. carve.json in it has the settings and
    three perplexities, on text that nothing was fitted to: of the dense model, of
    the same neurons with all experts active (it must be the dense one's, or the
    cut is wrong), and of the carved model. Fewer active experts are cheaper and
    worse.

    \b
    Examples:
      coterie carve smollm2-135m-instruct ./moe
      coterie carve ./my-llama ./my-moe --experts 8 --active 6 --calibration notes.txt
    """
    stages = Stages(quiet=as_json)
    settings = CarveSettings(**chosen)
    with stages.stage(f"model files of {source}"):
        directory = local_model(source, stages)
    with stages.stage(f"carving {source}"):
        texts = _texts(calibration, settings.seed)
        report = carve_into(out_dir, directory, texts, settings, stages)
    if as_json:
        print_json(asdict(report))
        return
    out().print(_table(report))
    err().print(
        f"{out_dir} is a model like any other: `model: {out_dir}` in a configuration serves "
        f"it; {REPORT_NAME} in it has these figures",
        style="dim",
    )


def _texts(calibration: Path | None, seed: int) -> Texts:
    return default_texts(seed) if calibration is None else file_texts(calibration)


def _table(report: CarveReport) -> Table:
    table = Table("", "PERPLEXITY", "NEURONS", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    cut, found = report.cut, report.perplexity
    for name, perplexity, neurons in (
        ("dense", found.dense, cut.num_neurons),
        (f"all {cut.num_experts} experts active", found.all_active, cut.num_neurons),
        (
            f"{cut.num_active} of {cut.num_experts} active",
            found.carved,
            cut.num_active_neurons,
        ),
    ):
        table.add_row(name, f"{perplexity:.3f}", str(neurons))
    return table
