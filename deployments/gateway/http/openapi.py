"""The HTTP door as an OpenAPI document, made of the very types that decode its bodies.

OpenAI's clients have their own idea of these paths; this is for everybody else, and for tests
that make up requests. Fields that are taken though they do nothing (`openai/fields.py`) are
not in it.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from deployments.gateway.http.errors import ErrorBody
from deployments.gateway.openai.chat import ChatRequest
from deployments.gateway.openai.completion import CompletionRequest
from deployments.gateway.openai.embeddings import EmbeddingRequest
from deployments.gateway.openai.response import AnswerBody, ModelBody
from deployments.gateway.openai.responses_items import ResponseBody
from deployments.gateway.openai.responses_request import ResponsesRequest

_REF = "#/components/schemas/{name}"
_JSON, _EVENTS = "application/json", "text/event-stream"
_EVENT = {
    "description": "One of the stream. `data` is JSON, or `[DONE]` at the end.",
    "type": "object",
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
    "required": ["data"],
}
"""Before OpenAPI 3.2 the schema of a stream is that of each event."""
_ERRORS = {
    400: "The request is wrong; the message names the field.",
    401: "No API key, or none that is valid.",
    404: "No such model, or no such path.",
    413: "The body is too large.",
    429: "No room at the moment; Retry-After says when.",
    500: "The engine failed, or the gateway did.",
    503: "No engine replica is ready.",
    504: "The request's time ran out.",
}


class Posted(NamedTuple):
    """A path that takes a body."""

    summary: str
    request: type[msgspec.Struct]
    answer: type[msgspec.Struct] | None
    """None: an object of its own form."""
    is_streamed: bool


POSTED: Mapping[str, Posted] = {
    "/v1/chat/completions": Posted("Answer a conversation.", ChatRequest, AnswerBody, True),
    "/v1/completions": Posted("Continue a prompt.", CompletionRequest, AnswerBody, True),
    "/v1/responses": Posted("Answer, in items.", ResponsesRequest, ResponseBody, True),
    "/v1/embeddings": Posted("Vectors of texts.", EmbeddingRequest, None, False),
}


def openapi() -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    types = [ErrorBody, ModelBody]
    for path in POSTED.values():
        types += [path.request, *([path.answer] if path.answer else [])]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(types)), ref_template=_REF)
    paths: dict[str, Any] = {name: {"post": _post(each)} for name, each in POSTED.items()}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models"] = {"get": _get("All models and adapters.", {"type": "object"})}
    paths["/v1/models/{name}"] = {
        "get": _get("One of them.", _ref(ModelBody)) | {"parameters": [name]}
    }
    paths["/health"] = {"get": {"summary": "Whether a model can answer.", **_plain(200, 503)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Coterie", "version": version("coterie")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(path: Posted) -> dict[str, Any]:
    answer = {"type": "object"} if path.answer is None else _ref(path.answer)
    content: dict[str, Any] = {_JSON: {"schema": answer}}
    if path.is_streamed:
        content[_EVENTS] = {"schema": _EVENT}
    return {
        "summary": path.summary,
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": _ref(path.request)}},
        },
        "responses": {"200": {"description": "The answer.", "content": content}} | _errors(),
    }


def _get(summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    content = {_JSON: {"schema": schema}}
    answer = {"description": "The answer.", "content": content}
    return {"summary": summary, "responses": {"200": answer} | _errors()}


def _errors() -> dict[str, Any]:
    content = {_JSON: {"schema": _ref(ErrorBody)}}
    return {str(s): {"description": w, "content": content} for s, w in _ERRORS.items()}


def _plain(*statuses: int) -> dict[str, Any]:
    return {"responses": {str(status): {"description": "As text."} for status in statuses}}


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
