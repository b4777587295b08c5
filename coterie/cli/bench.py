"""`coterie bench`: how quickly a server answers under a load."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from coterie.benchmark import plan
from coterie.benchmark.driver import Driver, Manner
from coterie.benchmark.kserve import KServeDriver
from coterie.benchmark.load import Load, OnSample, run_load
from coterie.benchmark.native import NativeDriver
from coterie.benchmark.openai_http import OpenAIHttpDriver
from coterie.benchmark.plot import check_can_plot, draw
from coterie.benchmark.prompts import Alphabet, read_prompts
from coterie.benchmark.summary import Slo, Summary, summarize
from coterie.benchmark.trace import read_trace
from coterie.benchmark.types import PlannedRequest, Sample
from coterie.cli import console
from coterie.cli.bench_options import BenchOptions, bench_options
from coterie.cli.bench_report import show, show_failures, show_lateness
from coterie.cli.client_options import ClientOptions, client_options
from coterie.cli.security_options import security_for

_DEFAULT_CONCURRENCY = 8
_DEFAULT_NUM_REQUESTS = 100


@click.command("bench")
@bench_options
@client_options
def bench_command(bench_options: BenchOptions, client_options: ClientOptions) -> None:
    """Send a load to a running cluster, and tell how it was borne.

    TTFT is the time to the first token, TPOT the time for each token after it,
    ITL the gap between two pieces of output, E2E the time for the whole answer.
    Goodput counts the requests that met every --slo option. Ctrl-C ends the load
    and tells what was measured so far.

    \b
    Examples:
      coterie bench --concurrency 8
      coterie bench --rate 2.5 --duration 60 --prompt-tokens 64:512 --slo-ttft-ms 500
      coterie bench --prompts questions.txt --chat --temperature 0
      coterie bench --trace trace.jsonl --speed 0.5 --output samples.json --plot load.svg
      coterie bench --url http://localhost:8000/v1 --json | jq .ttft_s.p99
      coterie bench --api kserve --address triton:8001 --model llama
    """
    if bench_options.plot:
        check_can_plot(bench_options.plot)
    driver = _driver(bench_options, client_options)
    requests, warmups = _planned(bench_options), _warmups(bench_options)
    samples: list[Sample] = []
    is_whole = True
    with _progress() as progress:
        task = progress.add_task("warming up", total=_num_requests(bench_options))

        def on_sample(sample: Sample) -> None:
            samples.append(sample)
            progress.update(task, advance=1, description=_course(samples))

        try:
            asyncio.run(_run(bench_options, driver, warmups, requests, on_sample))
        except KeyboardInterrupt:
            is_whole = False
    summary = summarize(samples, _slo(bench_options))
    _tell(summary, samples, bench_options, client_options)
    if not is_whole or summary.num_failed == summary.num_requests:
        click.get_current_context().exit(1)


async def _run(
    options: BenchOptions,
    driver: Driver,
    warmups: Iterator[PlannedRequest],
    requests: Iterator[PlannedRequest],
    on_sample: OnSample,
) -> None:
    try:
        alphabet = await driver.prepare()
        lanes = options.concurrency or _DEFAULT_CONCURRENCY
        await run_load(Load(warmups, lanes, alphabet, options.seed), driver, lambda _: None)
        await run_load(_load(options, requests, alphabet), driver, on_sample)
    finally:
        await driver.close()


def _load(
    options: BenchOptions, requests: Iterator[PlannedRequest], alphabet: Alphabet
) -> Load:
    lanes = _concurrency(options)
    return Load(requests, lanes, alphabet, options.seed, options.duration_s)


def _driver(options: BenchOptions, where: ClientOptions) -> Driver:
    ignore_eos = options.prompts is None if options.ignore_eos is None else options.ignore_eos
    manner = Manner(
        model=where.model,
        timeout_s=where.timeout_s,
        api_key=where.security.api_key,
        temperature=options.temperature,
        is_chat=options.is_chat,
        ignore_eos=ignore_eos,
    )
    if options.url is not None:
        security = security_for(options.url, where.security)
        return OpenAIHttpDriver(options.url, manner, security)
    if options.api == "kserve":
        return KServeDriver(where.address, manner, where.security)
    return NativeDriver(where.address, manner, where.security)


def _planned(options: BenchOptions) -> Iterator[PlannedRequest]:
    """The requests that count, with arrivals where the load goes by these."""
    requests = islice(_endless(options), _num_requests(options))
    if options.rate_per_s:
        return plan.at_rate(requests, options.rate_per_s, options.seed)
    return requests


def _endless(options: BenchOptions) -> Iterator[PlannedRequest]:
    if options.trace:
        return plan.planned_trace(read_trace(options.trace), options.speed)
    if options.prompts:
        prompts = read_prompts(options.prompts)
        return plan.planned_prompts(prompts, options.output_tokens, options.seed)
    return plan.planned_mix(options.prompt_tokens, options.output_tokens, options.seed)


def _warmups(options: BenchOptions) -> Iterator[PlannedRequest]:
    return plan.as_warmup(islice(_endless(options), options.num_warmups))


def _concurrency(options: BenchOptions) -> int | None:
    """Requests under way at a time; None where arrivals decide."""
    if options.concurrency or options.rate_per_s or options.trace:
        return options.concurrency
    return _DEFAULT_CONCURRENCY


def _num_requests(options: BenchOptions) -> int | None:
    """How many are sent at most; None for as many as there are."""
    if options.num_requests or options.trace or options.duration_s:
        return options.num_requests
    return _DEFAULT_NUM_REQUESTS


def _slo(options: BenchOptions) -> Slo:
    return Slo(_seconds(options.slo_ttft_ms), _seconds(options.slo_tpot_ms))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _progress() -> Progress:
    stderr = console.err()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def _course(samples: list[Sample]) -> str:
    """What the bar says: the newest first token, or the newest failure."""
    newest = samples[-1]
    if newest.failure:
        return f"failed: {newest.failure.kind}"
    return "" if newest.ttft_s is None else f"first token {newest.ttft_s * 1000:.0f} ms"


def _tell(
    summary: Summary, samples: list[Sample], options: BenchOptions, where: ClientOptions
) -> None:
    """To standard output, and into the files that were asked for."""
    if where.is_json:
        console.print_json(asdict(summary))
    else:
        show(summary)
    show_failures(summary, samples)
    show_lateness(summary)
    if options.output:
        written = {
            "settings": _settings(options, where),
            "summary": asdict(summary),
            "samples": [asdict(sample) for sample in samples],
        }
        text = json.dumps(written, default=str)  # paths
        options.output.write_text(f"{text}\n", encoding="utf-8")
    if options.plot:
        server = options.url or where.address
        draw(samples, f"{server}, {len(samples)} requests", options.plot)


def _settings(options: BenchOptions, where: ClientOptions) -> dict[str, Any]:
    """All options but the key, which is a secret, and the certificates."""
    found = {"address": where.address, "model": where.model, "timeout_s": where.timeout_s}
    return asdict(options) | found
