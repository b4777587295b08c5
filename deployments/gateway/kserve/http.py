"""KServe over HTTP: health, metadata, and Triton's generate extension.

A body's keys, those of its object `parameters` too, are input tensors where they
have the name of one, and sampling parameters otherwise. An output of one value is
a plain value in the answer, else a list.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from deployments.gateway.http.errors import ErrorBody, HttpFailure, to_failure
from deployments.gateway.http.exchange import (
    ClientGoneError,
    Exchange,
    request_id_or_new,
)
from deployments.gateway.kserve.metadata import model_metadata, server_metadata
from deployments.gateway.kserve.request import (
    VERSION,
    InferRequest,
    check_version,
    make_request,
)
from deployments.gateway.kserve.response import InferResponse, answer
from deployments.gateway.kserve.sampling import PARAM as SAMPLING_PARAM
from deployments.gateway.kserve.tensors import INPUT_TYPES, InputValue
from deployments.gateway.readiness import is_ready
from deployments.gateway.service import InferenceService
from deployments.types import CallOptions
from infra.errors import CoterieError, InvalidArgumentError

_STRING_WORDS = {SAMPLING_PARAM: "an object, or its JSON as a string"}
_MODEL = "/v2/models/{name:path}"
_VERSIONED = _MODEL + "/versions/{version}"


def kserve_routes(service: InferenceService, max_body_bytes: int) -> list[Route]:
    """All paths under `/v2`; the longer ones first, as names may have slashes."""
    catalogue = KServeCatalogue(service)
    generate = GeneratePath(service, max_body_bytes, is_stream=False)
    generate_stream = GeneratePath(service, max_body_bytes, is_stream=True)
    routes = [
        Route("/v2", catalogue.server),
        Route("/v2/health/live", catalogue.live),
        Route("/v2/health/ready", catalogue.ready),
    ]
    for model in (_VERSIONED, _MODEL):
        routes += [
            Route(f"{model}/generate", generate, methods=["POST"]),
            Route(f"{model}/generate_stream", generate_stream, methods=["POST"]),
            Route(f"{model}/ready", catalogue.model_ready),
            Route(model, catalogue.model),
        ]
    return routes


class KServeCatalogue:
    """The paths that only read: health and metadata."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def live(self, _: Request) -> Response:
        """200: the process answers."""
        return Response()

    async def ready(self, _: Request) -> Response:
        """200 where at least one model can answer, else 503."""
        return _ready(is_ready(self._service))

    async def server(self, _: Request) -> Response:
        """What this server is."""
        return _json(server_metadata())

    async def model(self, request: Request) -> Response:
        """Tensors of the model; 404 where there is none of that name."""
        try:
            check_version(request.path_params.get("version", ""))
            return _json(model_metadata(self._service.model(request.path_params["name"])))
        except CoterieError as error:
            return _to_response(error, request)

    async def model_ready(self, request: Request) -> Response:
        """200 where the model can answer, else 503."""
        try:
            check_version(request.path_params.get("version", ""))
            card = self._service.model(request.path_params["name"])
        except CoterieError as error:
            return _to_response(error, request)
        return _ready(card.can_answer)


class GeneratePath:
    """`generate` or `generate_stream`: one JSON answer, or one event a response."""

    def __init__(
        self, service: InferenceService, max_body_bytes: int, *, is_stream: bool
    ) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._is_stream = is_stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its generation ends when the client leaves."""
        exchange = Exchange(scope, receive, send)
        try:
            options = exchange.read_options()
            body = await exchange.read_body(self._max_body_bytes)
            request = decode_generate(body, scope["path_params"])
            await exchange.run_while_connected(self._answer(exchange, request, options))
        except ClientGoneError:
            return
        except Exception as error:
            # The boundary of the process: every failure gets an answer, ours are logged.
            await exchange.send_failure(to_triton_failure(error, exchange.request_id))

    async def _answer(
        self, exchange: Exchange, request: InferRequest, options: CallOptions
    ) -> None:
        if request.stream and not self._is_stream:
            raise InvalidArgumentError(
                "generate gives one response; set stream to false or use generate_stream",
                param="stream",
            )
        has_id = bool(request.id)
        request = request._replace(id=request.id or options.request_id or "")
        async with aclosing(answer(self._service, request, options)) as responses:
            async for response in responses:
                body = _encode(response, has_id=has_id)
                if not self._is_stream:
                    await exchange.answer(200, body)
                    return
                await exchange.write_event(b"data: " + body + b"\n\n")
        await exchange.end_events()


def decode_generate(body: bytes, path: Mapping[str, str]) -> InferRequest:
    """Raises InvalidArgumentError that names the key at fault, UnknownModelError."""
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"the body is not a JSON object: {error}") from error
    request_id = given.pop("id", "")
    nested = given.pop("parameters", None) or {}
    if not isinstance(request_id, str) or not isinstance(nested, dict):
        raise InvalidArgumentError("id must be a string, and parameters an object")
    fields = {**given, **nested}
    check_version(path.get("version", ""))
    return make_request(
        request_id,
        path["name"],
        {name: _input(name, v) for name, v in fields.items() if name in INPUT_TYPES},
        {name: v for name, v in fields.items() if name not in INPUT_TYPES},
    )


def _input(name: str, value: Any) -> InputValue:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if name == SAMPLING_PARAM and isinstance(value, dict):
        return msgspec.json.encode(value)
    kind = bool if INPUT_TYPES[name] == "BOOL" else str
    if not isinstance(value, kind):
        words = "true or false" if kind is bool else _STRING_WORDS.get(name, "a string")
        raise InvalidArgumentError(f"{name} must be {words}", param=name)
    return value.encode() if isinstance(value, str) else bool(value)


def _encode(response: InferResponse, *, has_id: bool) -> bytes:
    head = {"id": response.id} if has_id else {}
    head |= {"model_name": response.model, "model_version": VERSION}
    return msgspec.json.encode(
        head | {name: _plain(values) for name, values in response.name_to_values.items()}
    )


def _plain(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def to_triton_failure(error: Exception, request_id: str) -> HttpFailure:
    """As for OpenAI's clients, in Triton's form: the message alone."""
    failure = to_failure(error, request_id)
    message = msgspec.json.decode(failure.body, type=ErrorBody).error.message
    return failure._replace(body=msgspec.json.encode({"error": message}))


def _to_response(error: Exception, request: Request) -> Response:
    failure = to_triton_failure(error, request_id_or_new(request.headers))
    return Response(failure.body, failure.status, media_type="application/json")


def _ready(can_answer: bool) -> Response:
    return Response(status_code=200 if can_answer else 503)


def _json(value: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
