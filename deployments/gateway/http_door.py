"""The OpenAI-style HTTP door: its paths, and those that only read."""

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployments.gateway.http.errors import HttpFailure, to_failure, to_path_failure
from deployments.gateway.http.exchange import REQUEST_ID_HEADER, request_id_or_new
from deployments.gateway.http.openapi import openapi
from deployments.gateway.kserve.http import kserve_routes
from deployments.gateway.openai.chat import CHAT_REFUSED_FIELDS, ChatRequest
from deployments.gateway.openai.completion import (
    COMPLETION_REFUSED_FIELDS,
    CompletionRequest,
)
from deployments.gateway.openai.decode import RequestDecoder
from deployments.gateway.openai.embeddings import (
    EMBEDDING_REFUSED_FIELDS,
    EmbeddingAnswer,
    EmbeddingRequest,
)
from deployments.gateway.openai.path import BodyPath, GenerationAnswer
from deployments.gateway.openai.response import encode_model, encode_models
from deployments.gateway.openai.responses_answer import ResponsesAnswer
from deployments.gateway.openai.responses_request import (
    RESPONSES_REFUSED_FIELDS,
    ResponsesRequest,
)
from deployments.gateway.readiness import is_ready
from deployments.gateway.security.guard import Guard
from deployments.gateway.security.http_guard import HttpGuard
from deployments.gateway.service import InferenceService
from deployments.settings import GatewaySection
from infra.errors import CoterieError


def http_app(
    service: InferenceService, section: GatewaySection, guard: Guard | None = None
) -> FastAPI:
    """The door as an ASGI application; it keeps no state between requests.

    Without a guard nobody is asked for a key.
    """
    catalogue = Catalogue(service)
    answer = GenerationAnswer(service, section)
    max_bytes = section.max_message_bytes
    chat = BodyPath(RequestDecoder(ChatRequest, CHAT_REFUSED_FIELDS), max_bytes, answer)
    completions = BodyPath(
        RequestDecoder(CompletionRequest, COMPLETION_REFUSED_FIELDS), max_bytes, answer
    )
    responses = BodyPath(
        RequestDecoder(ResponsesRequest, RESPONSES_REFUSED_FIELDS),
        max_bytes,
        ResponsesAnswer(service),
    )
    embeddings = BodyPath(
        RequestDecoder(EmbeddingRequest, EMBEDDING_REFUSED_FIELDS),
        max_bytes,
        EmbeddingAnswer(service),
    )
    return FastAPI(
        title="Coterie",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/openapi.json", catalogue.openapi),
            Route("/v1/models", catalogue.list_models),
            Route("/v1/models/{name:path}", catalogue.get_model),
            Route("/health", catalogue.health),
            Route("/-/healthz", catalogue.health),
            *kserve_routes(service, section.max_message_bytes),
        ],
        middleware=[
            Middleware(
                HttpGuard, guard=guard or Guard(None), has_open_metrics=section.open_metrics
            )
        ],
        exception_handlers={
            HTTPException: _answer_path_failure,
            CoterieError: _answer_failure,
            Exception: _answer_failure,
        },
    )


class Catalogue:
    """The paths that only read: models and health."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def list_models(self, request: Request) -> Response:
        """All models and adapters."""
        return _json(encode_models(self._service.models()), request)

    async def get_model(self, request: Request) -> Response:
        """One of them; its name may have slashes."""
        card = self._service.model(request.path_params["name"])
        return _json(encode_model(card), request)

    async def openapi(self, request: Request) -> Response:
        """What this door takes and gives."""
        return _json(msgspec.json.encode(openapi()), request)

    async def health(self, _: Request) -> Response:
        """200 where at least one model can answer; KubeRay's probe looks for "success"."""
        if is_ready(self._service):
            return PlainTextResponse("success")
        return PlainTextResponse("no model has a ready engine replica", status_code=503)


def _json(body: bytes, request: Request) -> Response:
    request_id = request_id_or_new(request.headers)
    return Response(
        body, media_type="application/json", headers={REQUEST_ID_HEADER: request_id}
    )


async def _answer_failure(request: Request, error: Exception) -> Response:
    request_id = request_id_or_new(request.headers)
    return _to_response(to_failure(error, request_id), request_id)


async def _answer_path_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    failure = to_path_failure(error.status_code, request.method, request.url.path)
    response = _to_response(failure, request_id_or_new(request.headers))
    response.headers.update(error.headers or {})
    return response


def _to_response(failure: HttpFailure, request_id: str) -> Response:
    response = Response(failure.body, failure.status, media_type="application/json")
    response.headers[REQUEST_ID_HEADER] = request_id
    response.raw_headers.extend(failure.headers)
    return response
