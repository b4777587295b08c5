"""What every command shares: where text goes, and how a failure ends it.

Answers go to standard output; everything about them (progress, counts,
errors, hints) goes to standard error. Colours appear on a terminal alone, and
not where NO_COLOR is set.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import click
from click.exceptions import NoArgsIsHelpError
from rich.console import Console

from coterie import errors
from coterie.hints import hint_in

EXIT_CODES = {
    0: "done",
    1: "failed in some other way",
    2: "the command line, the configuration or the request is wrong",
    3: "no cluster answers at the address",
    4: "the cluster has no room at the moment",
    5: "the time given by --timeout passed",
}

# The first class that fits counts.
_EXIT_CODE_OF: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigError, 2),
    (errors.RequestError, 2),
    (errors.UnavailableError, 3),
    (errors.CapacityError, 4),
    (errors.DeadlineError, 5),
)

# For errors that come without one, see `coterie.hints`; the first class that fits counts.
_HINT_OF: tuple[tuple[type[BaseException], str], ...] = (
    (errors.UnknownModelError, "`coterie models` lists what is served"),
    (errors.UnknownMethodError, "`coterie models` tells which models can chat"),
    (errors.PromptTooLongError, "`coterie tokenize PROMPT` counts its tokens"),
    (errors.UnauthenticatedError, "give a key: --api-key KEY, or COTERIE_API_KEY"),
    (errors.RequestError, "the command's --help lists its options"),
    (errors.UnavailableError, "if it runs elsewhere, name it: --address HOST:PORT"),
    (errors.CapacityError, "try again later; `coterie status` shows what runs"),
    (errors.DeadlineError, "--timeout SECONDS gives it more time"),
    (errors.EngineError, "`coterie status` tells how the engines are"),
)


def out() -> Console:
    """Standard output, for answers. Lines are not wrapped unless it is a terminal."""
    return _console(sys.stdout)


def err() -> Console:
    """Standard error, for everything about the answers."""
    return _console(sys.stderr)


def write(text: str) -> None:
    """Put a piece of an answer out at once. Control characters that could
    steer a terminal are shown as such there; a pipe gets the text as it is."""
    sys.stdout.write(_tamed(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """One value (a dataclass, or a list or mapping) as one line of JSON."""
    write(json.dumps(value, ensure_ascii=False, default=_plain) + "\n")


def note(text: str) -> None:
    """A dim line beside the answer; nothing where no one watches."""
    if sys.stderr.isatty():
        err().print(text, style="dim")


def report(error: BaseException) -> None:
    """Print `error: ...` and, where there is one, the hint that helps."""
    _print_error(str(error) or type(error).__name__, hint_of(error))


def exit_code_of(error: BaseException) -> int:
    """How a command that failed with this ends; see `EXIT_CODES`."""
    return next((code for cls, code in _EXIT_CODE_OF if isinstance(error, cls)), 1)


def hint_of(error: BaseException) -> str | None:
    """What to type next; for a failure that nobody foresaw, how to see it all."""
    if not isinstance(error, errors.CoterieError):
        return "COTERIE_DEBUG=1 shows where it happened"
    if own := hint_in(error):
        return own
    if isinstance(error, errors.CapacityError) and error.retry_after_s:
        soon_s = math.ceil(error.retry_after_s)
        return f"try again in {soon_s} s; `coterie status` shows what runs"
    return next((hint for cls, hint in _HINT_OF if isinstance(error, cls)), None)


def guard(action: Callable[[], Any]) -> int:
    """Run a command to its end and give its exit code.

    The process boundary: any failure becomes an error message and a code,
    unless COTERIE_DEBUG=1 asks for the traceback.
    """
    try:
        result = action()
    except NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _report_usage(error)
        return error.exit_code
    except click.Abort:
        return 1
    except Exception as error:
        if os.environ.get("COTERIE_DEBUG") == "1":
            raise
        report(error)
        return exit_code_of(error)
    return result if isinstance(result, int) else 0


def _report_usage(error: click.ClickException) -> None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"`{context.command_path} --help` tells how to call it" if context else None
    _print_error(error.format_message(), hint)


def _print_error(message: str, hint: str | None) -> None:
    console = err()
    console.print("error:", style="bold red", end=" ")
    console.print(message)
    if hint:
        console.print(f"hint: {hint}", style="dim")


def _console(file: TextIO) -> Console:
    """What is printed is text: brackets and colons of others steer nothing in it."""
    width = None if file.isatty() else 10_000
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _tamed(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
