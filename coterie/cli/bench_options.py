"""The options of `coterie bench`, gathered into values."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from coterie.benchmark.plan import Lengths
from coterie.cli.gathering import gathering

Api = Literal["native", "kserve", "openai"]

URL_VARIABLE = "COTERIE_URL"
"""Environment variable with the URL of an OpenAI-style server."""

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, writable=True, path_type=Path)
_ABOVE_0 = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True)
class BenchOptions:
    """What is sent where, and what becomes of the measurements; None was not given."""

    api: Api | None
    url: str | None
    is_chat: bool
    temperature: float | None
    ignore_eos: bool | None
    concurrency: int | None
    rate_per_s: float | None
    num_requests: int | None
    duration_s: float | None
    num_warmups: int
    seed: int
    prompts: Path | None
    trace: Path | None
    speed: float
    prompt_tokens: Lengths
    output_tokens: Lengths
    slo_ttft_ms: float | None
    slo_tpot_ms: float | None
    output: Path | None
    plot: Path | None

    def __post_init__(self) -> None:
        if self.api == "openai" and self.url is None:
            # Not without --api: the variable is there for `coterie batch` too.
            object.__setattr__(self, "url", os.environ.get(URL_VARIABLE) or None)
        if (self.api == "openai") != (self.url is not None) and self.api is not None:
            raise click.UsageError(
                f"--api openai and --url URL (or {URL_VARIABLE}) go together"
            )
        if self.concurrency and self.rate_per_s:
            raise click.UsageError("give either --concurrency or --rate")
        if self.prompts and self.trace:
            raise click.UsageError("give either --prompts or --trace")


class _LengthsType(click.ParamType[Lengths]):
    name = "N|MIN:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Lengths:
        """`64` or `16:128`."""
        if isinstance(value, Lengths):
            return value
        low, _, high = str(value).partition(":")
        if not (low.isdecimal() and (high or low).isdecimal()):
            self.fail(f"{value!r} is neither a number nor MIN:MAX", param, ctx)
        found = Lengths(int(low), int(high or low))
        if not 1 <= found.low <= found.high:
            self.fail(f"{value!r} must begin at 1 or above, and not fall", param, ctx)
        return found


_SERVER = (
    click.option(
        "--api",
        type=click.Choice(get_args(Api)),
        help="What the server speaks: kserve at --address, openai at --url. Default: "
        "openai with --url, else native, which is ours.",
    ),
    click.option(
        "--url",
        metavar="URL",
        help="An OpenAI-style server instead: its .../v1. Default with --api openai: "
        f"${URL_VARIABLE}.",
    ),
    click.option("--chat", "is_chat", is_flag=True, help="Prompts as a user's messages."),
    click.option("--temperature", type=float, help="0: always the likeliest token."),
    click.option(
        "--ignore-eos/--no-ignore-eos",
        default=None,
        help="Go on past the model's own end. Default: yes, but for --prompts.",
    ),
)
_LOAD = (
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="So many requests under way at a time. Default: 8, but for --trace.",
    ),
    click.option(
        "--rate",
        "rate_per_s",
        type=_ABOVE_0,
        metavar="N",
        help="So many new requests a second, arriving at random (Poisson).",
    ),
    click.option(
        "--requests",
        "num_requests",
        type=click.IntRange(min=1),
        metavar="N",
        help="Send so many. Default: 100; no limit with --duration; all of a trace.",
    ),
    click.option(
        "--duration",
        "duration_s",
        type=_ABOVE_0,
        metavar="SECONDS",
        help="Begin no request after it.",
    ),
    click.option(
        "--warmup",
        "num_warmups",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        metavar="N",
        help="Requests before, which do not count.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Of arrivals, lengths and made-up prompts.",
    ),
)
_PROMPTS = (
    click.option(
        "--prompts",
        type=_IN,
        metavar="FILE",
        help='Prompts, one a line; in a .jsonl file {"prompt": ..., "max_tokens": ...}.',
    ),
    click.option(
        "--trace",
        type=_IN,
        metavar="FILE",
        help="Replay a trace (Mooncake's .jsonl, Azure's .csv): its arrivals and lengths.",
    ),
    click.option(
        "--speed",
        type=_ABOVE_0,
        default=1.0,
        show_default=True,
        help="Replay the trace's arrivals so many times as fast.",
    ),
    click.option(
        "--prompt-tokens",
        type=_LengthsType(),
        default="256",
        show_default=True,
        help="Length of made-up prompts; of words, where a server takes no token ids.",
    ),
    click.option(
        "--output-tokens",
        type=_LengthsType(),
        default="64",
        show_default=True,
        help="Most tokens of an answer.",
    ),
)
_REPORT = (
    click.option(
        "--slo-ttft-ms", type=_ABOVE_0, metavar="MS", help="Goodput: first token within."
    ),
    click.option(
        "--slo-tpot-ms", type=_ABOVE_0, metavar="MS", help="Goodput: time per token within."
    ),
    click.option("--output", type=_OUT, metavar="FILE", help="Write all samples as JSON."),
    click.option(
        "--plot", type=_OUT, metavar="FILE", help="Draw a picture: .png, .svg or .pdf."
    ),
)


bench_options = gathering(
    "bench_options", BenchOptions, (*_SERVER, *_LOAD, *_PROMPTS, *_REPORT)
)
"""Gives a command these options; it receives them as `bench_options`."""
