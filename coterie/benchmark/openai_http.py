"""The driver of any server that speaks OpenAI's HTTP interface."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from coterie.benchmark.driver import Manner
from coterie.benchmark.prompts import WORDS, Alphabet
from coterie.benchmark.types import Ask, Counts, Piece
from coterie.errors import CoterieError, UnavailableError, UnknownModelError
from coterie.hints import hinted
from coterie.http_server import HttpServer
from coterie.model_list import CONTACT_LIMIT_S, ask_models
from coterie.security import Security

_REFUSAL_CHARACTERS = 300
_DATA = b"data:"


class OpenAIHttpDriver:
    """A `Driver` of `/completions`, or of `/chat/completions` for conversations.

    `url` is the base that OpenAI's clients take: `http://localhost:8000/v1`. Without
    `security` the key of the manner goes along.
    """

    def __init__(self, url: str, manner: Manner, security: Security | None = None) -> None:
        chosen = security or Security(api_key=manner.api_key)
        self._server = HttpServer(url, chosen, manner.timeout_s)
        self._manner = manner
        self._model = manner.model

    async def prepare(self) -> Alphabet:
        """See `Driver.prepare`. Without a model's name the only one is taken."""
        limit_s = self._manner.timeout_s or CONTACT_LIMIT_S
        found = await ask_models(self._server, limit_s, is_named=bool(self._model))
        if not self._model:
            if found.names is None:
                raise _refusal(found.status, found.text)
            self._model = _only_one(found.names)
        return WORDS

    async def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        """See `Driver.stream`."""
        path = "chat/completions" if self._manner.is_chat else "completions"
        with self._server.failures():
            async with self._server.session.post(
                f"{self._server.url}/{path}", json=self._body(ask)
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text(errors="replace"))
                async for line in response.content:
                    if not line.startswith(_DATA):
                        continue
                    data = line[len(_DATA) :].strip()
                    if data == b"[DONE]":
                        return
                    yield piece_of(json.loads(data))
        raise UnavailableError(f"{self._server.url} ended its answer before [DONE]")

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._server.session.close()

    def _body(self, ask: Ask) -> dict[str, Any]:
        manner = self._manner
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if manner.is_chat:
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt
        if ask.max_tokens is not None:
            body["max_tokens"] = ask.max_tokens
        if manner.temperature is not None:
            body["temperature"] = manner.temperature
        if manner.ignore_eos:  # an addition of vLLM's, refused by some servers
            body["ignore_eos"] = True
        return body


def piece_of(event: dict[str, Any]) -> Piece:
    """What one event brings. Raises the error of an event that tells one."""
    if event.get("error"):
        raise _failure_of(event["error"], "internal")
    has_output = any(_has_output(choice) for choice in event.get("choices") or ())
    return Piece(has_output, _counts_of(event.get("usage")))


def _has_output(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    told = (delta.get(key) for key in ("content", "reasoning_content", "reasoning"))
    return bool(choice.get("text") or delta.get("tool_calls") or any(told))


def _counts_of(usage: dict[str, Any] | None) -> Counts | None:
    if not usage:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Counts(
        num_prompt_tokens=usage.get("prompt_tokens") or 0,
        num_output_tokens=usage.get("completion_tokens") or 0,
        num_cached_tokens=details.get("cached_tokens") or 0,
    )


def _only_one(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    told = UnknownModelError(f"choose a model with --model: {', '.join(names) or 'none'}")
    raise hinted(told, "--model NAME chooses one")


def _refusal(status: int, text: str) -> CoterieError:
    """The error of an answer that is no stream."""
    try:
        body = json.loads(text)
        error = body["error"]
    except (ValueError, KeyError, TypeError):
        error = text[:_REFUSAL_CHARACTERS]
    return _failure_of(error, f"http_{status}")


def _failure_of(error: Any, otherwise: str) -> CoterieError:
    """An error whose kind is the server's own word, or `otherwise` where it has none."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    failure = CoterieError(str(fields.get("message") or error or otherwise))
    failure.kind = code if isinstance(code, str) and code else otherwise
    return failure
