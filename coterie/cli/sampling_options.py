"""The options that say how tokens are chosen, as `Sampling` has them."""

import json
from pathlib import Path

import click

from coterie.cli.gathering import gathering
from coterie.sampling import Sampling

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _text_of(ctx: click.Context, param: click.Parameter, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is no text: {error}", ctx, param) from error
    if not text.strip():
        raise click.BadParameter(f"{path} is empty", ctx, param)
    return text


def _json_of(ctx: click.Context, param: click.Parameter, path: Path | None) -> str | None:
    text = _text_of(ctx, param, path)
    try:
        json.loads(text or "null")
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path} is no JSON: {error}", ctx, param) from error
    return text


def _biases_of(
    ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]
) -> dict[int, float] | None:
    biases = {}
    for pair in pairs:
        token_id, _, bias = pair.partition("=")
        try:
            biases[int(token_id)] = float(bias)
        except ValueError as error:
            raise click.BadParameter(f"{pair!r} is no ID=BIAS", ctx, param) from error
    return biases or None


_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("--max-tokens", int, "Most tokens to generate. Default: what fits the context."),
    ("--min-tokens", int, "Do not end before this many tokens."),
    ("--temperature", float, "0: always the likeliest token; higher: more varied."),
    ("--top-p", float, "Only the likeliest tokens that make up this probability."),
    ("--top-k", int, "Only this many of the likeliest tokens."),
    ("--min-p", float, "Only tokens at least this fraction as likely as the likeliest."),
    ("--presence-penalty", float, "Against tokens that the output has already."),
    ("--frequency-penalty", float, "The same, for each time that it has them."),
    ("--repetition-penalty", float, "Against tokens of prompt and output; 1 is none."),
    ("--seed", int, "Sample the same again."),
    ("--logprobs", int, "Logprobs of the tokens and this many others (with --json)."),
)

_OPTIONS = (
    *(click.option(flag, type=kind, help=text) for flag, kind, text in _NUMBERS),
    click.option("-n", "--n", type=int, help="Independent outputs from the same prompt."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before it. Repeatable."),
    click.option(
        "--stop-token-id", "stop_token_ids", type=int, multiple=True, help="End after it."
    ),
    click.option("--ignore-eos", is_flag=True, help="Go on past the model's own end."),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="ID=BIAS",
        callback=_biases_of,
        help="Make a token likelier or less likely. Repeatable.",
    ),
    click.option(
        "--json-schema",
        type=_FILE,
        metavar="FILE",
        callback=_json_of,
        help="The output is JSON of this schema.",
    ),
    click.option("--json-object", is_flag=True, help="The output is some JSON object."),
    click.option("--regex", metavar="PATTERN", help="The whole output matches it."),
    click.option(
        "--grammar",
        type=_FILE,
        metavar="FILE",
        callback=_text_of,
        help="The output follows this EBNF or Lark grammar.",
    ),
    click.option(
        "--choice",
        multiple=True,
        metavar="TEXT",
        help="The output is one of these. Repeatable.",
    ),
)


sampling_options = gathering("sampling", Sampling, _OPTIONS)
"""Gives a command these options; it receives them as `sampling`."""
