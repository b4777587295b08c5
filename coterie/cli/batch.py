"""`coterie batch`: a file of requests, answered into another file."""

import asyncio
import shlex
from collections.abc import Container, Coroutine, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from coterie.batch.concurrency import Concurrency
from coterie.batch.output import OutputFile
from coterie.batch.plan import Digest, read_ids, requests_left
from coterie.batch.retry import Retry
from coterie.batch.run import Means, OnOutcome, run_batch
from coterie.batch.send import HttpSender
from coterie.batch.tally import Tally
from coterie.batch.types import BatchRequest, Outcome
from coterie.batch.waiting import Waiting
from coterie.cli import console
from coterie.cli.batch_options import BatchOptions, batch_options
from coterie.cli.batch_progress import BatchProgress, show_tally
from coterie.cli.security_options import security_options
from coterie.errors import CoterieError
from coterie.security import Security

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command("batch")
@click.argument("source", type=_IN, metavar="IN.JSONL")
@click.argument("target", type=_OUT, metavar="OUT.JSONL")
@batch_options
@security_options
def batch_command(
    source: Path, target: Path, batch_options: BatchOptions, security: Security
) -> None:
    """Send the requests of a file, and write the answers into another one.

    Both have the form of OpenAI's batches: in go lines of custom_id, method, url and
    body, out come lines of custom_id, response and error, in the order of their ends.
    How many requests are under way at a time follows from what the server bears; a
    Coterie cluster serves them in the gaps that other requests leave.

    The same command again goes on where an earlier one ended: what has a final answer
    is not sent again, what had none is.

    \b
    Examples:
      coterie batch requests.jsonl answers.jsonl
      coterie batch requests.jsonl answers.jsonl --errors failed.jsonl --max-concurrency 32
      coterie batch requests.jsonl answers.jsonl --url https://example.com/v1 --api-key KEY

    \b
    Exit codes: 0 all were served, 1 some were not or the batch was ended early,
    2 the command, a file or the key is wrong, 3 nothing answers at the URL.
    """
    _check_distinct(source, target, batch_options.errors)
    server = batch_options.server(security)
    with ExitStack() as files:
        outputs = _Outputs(
            files.enter_context(OutputFile(path))
            for path in (target, batch_options.errors)
            if path
        )
        tally = _planned(source, outputs)
        outputs.mend()
        concurrency, waiting = Concurrency(batch_options.max_concurrency), Waiting()
        with BatchProgress(tally, concurrency, waiting) as progress:

            def on_outcome(outcome: Outcome) -> None:
                outputs.append(outcome)
                progress.add(outcome)

            retry = Retry(batch_options.max_retries)
            means = Means(HttpSender(server), concurrency, retry, waiting)
            requests = requests_left(source, outputs)
            is_whole = not tally.num_left or _is_sent(_send(requests, means, on_outcome), tally)
    show_tally(tally, is_json=batch_options.is_json)
    if not is_whole:
        console.err().print(f"to go on: {_same_again()}")
    if not is_whole or tally.num_failed:
        click.get_current_context().exit(1)


class _Outputs:
    """The file of answers and, where one was asked for, the file of failures.

    A request is `in` them that has a final result in one.
    """

    def __init__(self, files: Iterable[OutputFile]) -> None:
        self._files = tuple(files)

    def __contains__(self, digest: object) -> bool:
        return self.is_served(digest) or any(digest in file.failed for file in self._files)

    def is_served(self, digest: object) -> bool:
        return any(digest in file.served for file in self._files)

    def check_belong(self, ids: Container[Digest]) -> None:
        """Raises ConfigError for a file of other requests.

        Answers to these speak for the failures beside them: whoever mends a request that
        failed may give it another custom_id.
        """
        answers, *failures = self._files
        answers.check_belongs(ids)
        if not answers.has_any_of(ids):
            for file in failures:
                file.check_belongs(ids)

    def mend(self) -> None:
        for file in self._files:
            file.mend()

    def append(self, outcome: Outcome) -> None:
        self._files[0 if outcome.is_ok else -1].append(outcome)


def _planned(source: Path, outputs: _Outputs) -> Tally:
    """What there is to do. Raises ConfigError for outputs of other requests."""
    ids = read_ids(source)
    outputs.check_belong(ids)
    num_done = sum(digest in outputs for digest in ids)
    num_ok = sum(outputs.is_served(digest) for digest in ids)
    return Tally(len(ids), num_done, num_ok, num_done - num_ok)


def _is_sent(sending: Coroutine[Any, Any, None], tally: Tally) -> bool:
    """Whether it ran to its end; Ctrl-C, and a failure of the whole, end it before.

    Raises the failure where it came before anything else.
    """
    num_left = tally.num_left
    try:
        asyncio.run(sending)
    except KeyboardInterrupt:
        return False
    except CoterieError as error:
        if tally.num_left == num_left:
            raise
        console.report(error)
        return False
    return True


async def _send(requests: Iterator[BatchRequest], means: Means, on_outcome: OnOutcome) -> None:
    try:
        await run_batch(requests, means, on_outcome)
    finally:
        await means.sender.close()


def _check_distinct(*paths: Path | None) -> None:
    resolved = [path.resolve() for path in paths if path]
    if len(set(resolved)) < len(resolved):
        raise click.UsageError("the files of requests, answers and errors must differ")


def _same_again() -> str:
    """The command line, without the key, which is a secret."""
    context = click.get_current_context()
    words = ["coterie", "batch"]
    options: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        elif name != "api_key":
            options += [parameter.opts[0], str(value)]
    return shlex.join(words + options)
