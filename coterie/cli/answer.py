"""Printing answers: streams as they come, responses as a whole."""

from coterie.cli import console
from coterie.cli.pace import Pace
from coterie.collector import Collector
from coterie.stream import Stream
from coterie.types import Response


def show_stream(stream: Stream, collector: Collector, *, is_json: bool) -> None:
    """Print the one output of a stream as it comes, and its pace after it.

    `collector` holds what has come, also where the stream fails or Ctrl-C
    breaks in. With `is_json`: one chunk a line.
    """
    pace = Pace()
    with stream:
        try:
            for chunk in stream:
                pace.add(chunk)
                collector.add(chunk)
                if is_json:
                    console.print_json(chunk)
                else:
                    console.write(chunk.text)
        finally:
            if not is_json:
                console.write("\n")
    console.note(pace.summary(stream.usage))


def show_response(response: Response, *, is_json: bool) -> None:
    """Print whole outputs; several of them each under a heading."""
    if is_json:
        console.print_json(response)
        return
    for output in response.outputs:
        if len(response.outputs) > 1:
            console.write(f"[{output.index + 1}/{len(response.outputs)}]\n")
        console.write(f"{output.text}\n")
