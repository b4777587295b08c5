"""The loop behind `coterie chat`: read, ask, print, remember."""

import contextlib
import sys

from coterie.cli import console
from coterie.cli.answer import show_stream
from coterie.cli.client_options import ClientOptions
from coterie.client import Client
from coterie.collector import Collector
from coterie.errors import CoterieError, UnknownMethodError
from coterie.sampling import Sampling
from coterie.types import Message

HELP = """/clear  forget the conversation
/exit   end it, as Ctrl-D does
/help   this"""


class Conversation:
    """A conversation with one model, and all that was said in it."""

    def __init__(
        self, client: Client, options: ClientOptions, sampling: Sampling, system: str | None
    ) -> None:
        self._client = client
        self._options = options
        self._sampling = sampling
        self._opening = [] if system is None else [Message("system", system)]
        self.messages = list(self._opening)

    def run(self) -> None:
        """Take messages until the input ends.

        On a terminal Ctrl-C stops an answer alone, a failed message is reported
        and forgotten, and the conversation goes on; lines that begin with "/" are
        commands. From a pipe every line is a message, and either ends it.
        """
        is_watched = sys.stdin.isatty()
        if is_watched:
            self._greet()
        while (text := _read(is_watched)) is not None:
            if not text.strip():
                continue
            if is_watched and text.startswith("/"):
                if not self._obey(text.strip()):
                    return
                continue
            try:
                self.ask(text)
            except KeyboardInterrupt:
                if not is_watched:
                    raise
                console.note("(stopped)")
            except CoterieError as error:
                if not is_watched:
                    raise
                console.report(error)

    def ask(self, text: str) -> None:
        """Send one message, print the answer, remember both.

        Of an answer that Ctrl-C stops, what was seen is remembered; of one
        that failed, neither the answer nor the message.
        """
        asked = self.with_message(text)
        collector = Collector()
        try:
            stream = self._client.chat(
                asked,
                model=self._options.model,
                timeout_s=self._options.timeout_s,
                sampling=self._sampling,
            )
            show_stream(stream, collector, is_json=self._options.is_json)
        except KeyboardInterrupt:
            self._remember(asked, collector)
            raise
        self._remember(asked, collector)

    def with_message(self, text: str) -> list[Message]:
        """The conversation and the user's next message."""
        return [*self.messages, Message("user", text)]

    def _remember(self, asked: list[Message], collector: Collector) -> None:
        answer = collector.response().text
        if answer:
            self.messages = [*asked, Message("assistant", answer)]

    def _greet(self) -> None:
        model = self._client.model(self._options.model, timeout_s=self._options.timeout_s)
        if not model.has_chat_template:
            raise UnknownMethodError(
                f"{model.name} has no chat template; "
                f"`coterie generate --model {model.name}` continues plain text"
            )
        console.note(
            f"{model.name} at {self._client.address}, {model.max_model_len} tokens of context. "
            "Ctrl-C stops an answer, Ctrl-D ends, /help lists the rest."
        )

    def _obey(self, command: str) -> bool:
        """Do what a /command says; False where it ends the conversation."""
        if command in ("/exit", "/quit"):
            return False
        if command == "/clear":
            self.messages = list(self._opening)
            console.note("(forgotten)")
        else:
            console.err().print(HELP)
        return True


def _read(is_watched: bool) -> str | None:
    """The next message; None where the input ends."""
    if not is_watched:
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415  gives input() editing and recall
    while True:
        try:
            return input("> ")
        except EOFError:
            console.err().print()
            return None
        except KeyboardInterrupt:
            console.err().print()
            console.note("Ctrl-D ends the conversation.")
