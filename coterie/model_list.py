"""First contact with an OpenAI-style server: what it serves, and whether it is one."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus

from coterie.errors import DeadlineError, UnauthenticatedError, UnavailableError
from coterie.hints import hinted
from coterie.http_server import HttpServer

log = logging.getLogger("coterie")

CONTACT_TIMEOUT_S = 10.0
"""For a first answer: a server that is there gives it at once."""

CONTACT_LIMIT_S = 60.0
"""For all tries of it: a busy server may take longer."""

_FIRST_WAIT_S = 0.5
_BUSY = (408, 429, 502, 503)
_REFUSAL_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ModelList:
    """The names of its models; None where it does not tell, for a reason in `status` and
    `text`: it may be busy, or keep the list to itself."""

    names: tuple[str, ...] | None
    status: int
    text: str


async def ask_models(
    server: HttpServer, limit_s: float = CONTACT_LIMIT_S, *, is_named: bool
) -> ModelList:
    """Ask for `/models`, again while the server is silent or, unless the model `is_named`
    already, has no room; each try may take longer than the one before.

    Raises UnavailableError where nothing answers within `limit_s`, or something that has
    no such interface; UnauthenticatedError where the server wants another key. Where the
    model is named a server may be without the list: that is warned of.
    """
    found = await _ask_patiently(server, limit_s, is_named=is_named)
    if found.status == HTTPStatus.UNAUTHORIZED:
        raise unknown_key(found.text[:_REFUSAL_CHARACTERS])
    if found.names is not None or found.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
        return found
    if found.status == HTTPStatus.OK or not is_named or await _lacks_v1(server):
        raise _no_interface(server.url, found.status)
    log.warning("%s has no list of models; the model is taken as named", server.url)
    return found


async def _ask_patiently(server: HttpServer, limit_s: float, *, is_named: bool) -> ModelList:
    end_s = time.monotonic() + limit_s
    try_s, wait_s = CONTACT_TIMEOUT_S, _FIRST_WAIT_S
    while True:
        left_s = max(end_s - time.monotonic(), 0.001)  # 0 would be no limit
        try:
            found = await _ask(server, f"{server.url}/models", min(try_s, left_s))
        except DeadlineError as error:
            if try_s >= left_s or end_s <= time.monotonic() + wait_s:
                raise server.silent(limit_s) from error
        else:
            is_over = end_s <= time.monotonic() + wait_s
            if is_named or is_over or found.status not in _BUSY:
                return found
        await asyncio.sleep(wait_s)
        try_s, wait_s = try_s * 2, wait_s * 2


async def _ask(server: HttpServer, url: str, timeout_s: float) -> ModelList:
    with server.failures():
        async with server.session.get(url, timeout=server.limits(timeout_s)) as response:
            text = await response.text(errors="replace")
            return ModelList(_names_in(text), response.status, text)


async def _lacks_v1(server: HttpServer) -> bool:
    """Whether the list is where the URL would lead with /v1 at its end."""
    if server.url.endswith("/v1"):
        return False
    try:
        found = await _ask(server, f"{server.url}/v1/models", CONTACT_TIMEOUT_S)
    except (DeadlineError, UnavailableError):
        return False
    return found.status == HTTPStatus.OK and found.names is not None


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
