"""First contact with an OpenAI-style server: what it serves, and whether it is one."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from coterie.errors import DeadlineError, UnauthenticatedError, UnavailableError
from coterie.hints import hinted
from coterie.http_server import HttpServer

CONTACT_TIMEOUT_S = 10.0
"""For a first answer: a server that is there gives it at once."""

_REFUSAL_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ModelList:
    """The names of its models; None where it does not tell, for a reason in `status` and
    `text`: it may be busy, or keep the list to itself."""

    names: tuple[str, ...] | None
    status: int
    text: str


async def ask_models(server: HttpServer, timeout_s: float = CONTACT_TIMEOUT_S) -> ModelList:
    """Ask for `/models`.

    Raises UnavailableError where nothing answers in time, or something that has no such
    interface; UnauthenticatedError where the server wants another key.
    """
    try:
        with server.failures():
            async with server.session.get(
                f"{server.url}/models", timeout=server.limits(timeout_s)
            ) as response:
                status, text = response.status, await response.text(errors="replace")
    except DeadlineError as error:
        raise server.silent(timeout_s) from error
    if status == HTTPStatus.UNAUTHORIZED:
        raise unknown_key(text[:_REFUSAL_CHARACTERS])
    names = _names_in(text)
    if names is None and status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
        raise _no_interface(server.url, status)
    return ModelList(names, status, text)


def unknown_key(words: object) -> UnauthenticatedError:
    """The error for a server that wants another key, with its own words."""
    return UnauthenticatedError(f"the server does not know the key: {words}")


def _no_interface(url: str, status: int) -> UnavailableError:
    guess = "" if url.endswith("/v1") else "; does it lack /v1?"
    told = UnavailableError(f"no OpenAI interface at {url}{guess}")
    return hinted(told, f"{url}/models gave {status} and no list of models")


def _names_in(text: str) -> tuple[str, ...] | None:
    """The names in a list of models, as OpenAI writes it or bare; None for anything else."""
    try:
        found = json.loads(text)
        models = found["data"] if isinstance(found, dict) else found
        return tuple(str(model["id"]) for model in models)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
