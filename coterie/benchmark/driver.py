"""What sends the requests of a load: an interface, and what every driver is told."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from coterie.benchmark.prompts import Alphabet
from coterie.benchmark.types import Ask, Piece
from coterie.model_list import CONTACT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Manner:
    """How each request is made. None leaves a value to the server; `model` may stay
    empty where one is served. `api_key` goes along as a bearer token."""

    model: str = ""
    timeout_s: float | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    is_chat: bool = False
    ignore_eos: bool = False

    @property
    def contact_timeout_s(self) -> float:
        """For the calls before the load: a server that is there answers them at once."""
        return self.timeout_s or CONTACT_TIMEOUT_S


class Driver(Protocol):
    """A way to a server. Both methods raise errors of `coterie.errors` alone."""

    async def prepare(self) -> Alphabet:
        """Reach the server, and give the alphabet of its made-up prompts. Call it first.

        Raises UnavailableError where none answers, UnknownModelError where it does
        not serve the model.
        """
        ...

    def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        """Send a request, and give the pieces of its answer as they arrive.

        Leaving early ends the request. The error that a request ends in is raised
        after the pieces that came before it.
        """
        ...

    async def close(self) -> None:
        """Give the connections back; streams that are open end."""
        ...
