"""The KServe v2 door, with Triton's streams: `inference.GRPCInferenceService`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from google.protobuf.message import DecodeError

from deployments.gateway.caller import check_caller
from deployments.gateway.checks import MAX_STREAM_REQUESTS
from deployments.gateway.error_feed import answered
from deployments.gateway.kserve.metadata import model_metadata, server_metadata
from deployments.gateway.kserve.request import VERSION, check_version, decode_request
from deployments.gateway.kserve.response import InferResponse, answer
from deployments.gateway.kserve.tensors import OUTPUT_TYPES, encode_output
from deployments.gateway.readiness import is_ready
from deployments.gateway.rpc.answer import Context, abort, call_options
from deployments.gateway.rpc.answer import answer as answer_call
from deployments.gateway.rpc.error_details import MAX_MESSAGE_CHARS
from deployments.gateway.rpc.stream_writer import CLIENT_TIMEOUT_S, StreamWriter
from deployments.gateway.service import InferenceService
from deployments.kserve import grpc_service_pb2 as pb
from deployments.kserve import grpc_service_pb2_grpc as pb_grpc
from infra.errors import CoterieError, DeadlineError, InvalidArgumentError, RequestError

log = logging.getLogger(__name__)

FINAL_PARAM = "triton_final_response"
KIND_PARAM = "coterie_error"


class KServeDoor(pb_grpc.GRPCInferenceServiceServicer):
    """Translates; everything that decides is in the service."""

    def __init__(
        self, service: InferenceService, client_timeout_s: float = CLIENT_TIMEOUT_S
    ) -> None:
        """Streams end whose client takes nothing for `client_timeout_s`."""
        self._service = service
        self._client_timeout_s = client_timeout_s

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """At least one model can answer."""
        return await answer_call(context, self._server_ready())

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """The model can answer; false too for a model that is not served."""
        return await answer_call(context, self._model_ready(request))

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """What this server is."""
        return pb.ServerMetadataResponse(**server_metadata())

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Tensors of the model."""
        return await answer_call(context, self._metadata(request))

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Whole outputs at once."""
        return await answer_call(context, self._infer(request, context))

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        """Answer all requests of the stream side by side; its end aborts the open ones."""
        error: CoterieError | None = None
        try:
            await self._answer_all(request_iterator, context)
        except* DecodeError:
            error = InvalidArgumentError("a message is no ModelInferRequest")
        except* DeadlineError as stalled:
            error = DeadlineError(str(stalled.exceptions[0]))
        if error is not None:
            await abort(context, error)

    async def _answer_all(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        room = asyncio.Semaphore(MAX_STREAM_REQUESTS)
        writer = StreamWriter(context, self._client_timeout_s)
        await writer.open()

        async def write_all(request: pb.ModelInferRequest) -> None:
            try:
                async with aclosing(self._responses(request, context)) as responses:
                    async for response in responses:
                        await writer.write(response)
            finally:
                room.release()

        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await room.acquire()
                group.create_task(write_all(request))

    async def _responses(
        self, message: pb.ModelInferRequest, context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """The responses of one request; a failure is the last of them."""
        try:
            # The stream may be older than the key is valid.
            check_caller()
            request = decode_request(message)
            options = call_options(context, door="kserve")
            async with aclosing(answer(self._service, request, options)) as responses:
                async for response in responses:
                    yield pb.ModelStreamInferResponse(infer_response=_to_message(response))
        except CoterieError as error:
            answered(error.kind, "grpc")
            yield _failure(message, error)
        except Exception:  # the boundary of the process: the client gets no traceback
            log.exception("request failed")
            answered(CoterieError.kind, "grpc")
            yield _failure(message, CoterieError("internal error; the gateway's log has more"))

    async def _infer(
        self, message: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        request = decode_request(message)
        options = call_options(context, door="kserve")
        if request.stream:
            raise InvalidArgumentError(
                "ModelInfer gives one response; set stream to false or use ModelStreamInfer",
                param="stream",
            )
        async with aclosing(answer(self._service, request, options)) as responses:
            return _to_message(await anext(responses))

    async def _server_ready(self) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=is_ready(self._service))

    async def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            check_version(request.version)
            card = self._service.model(request.name)
        except RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=card.can_answer)

    async def _metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        check_version(request.version)
        return pb.ModelMetadataResponse(**model_metadata(self._service.model(request.name)))


def _to_message(response: InferResponse) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse(
        model_name=response.model, model_version=VERSION, id=response.id
    )
    message.parameters[FINAL_PARAM].bool_param = response.is_final
    for name, values in response.name_to_values.items():
        datatype = OUTPUT_TYPES[name].datatype
        message.outputs.add(name=name, datatype=datatype, shape=[len(values)])
        message.raw_output_contents.append(encode_output(name, values))
    return message


def _failure(message: pb.ModelInferRequest, error: CoterieError) -> pb.ModelStreamInferResponse:
    words = error.message or "the request failed"
    response = pb.ModelStreamInferResponse(error_message=words[:MAX_MESSAGE_CHARS])
    # A stream's failure has no status; this is its kind, as `coterie-error` elsewhere.
    response.infer_response.parameters[KIND_PARAM].string_param = error.kind
    response.infer_response.id = message.id
    response.infer_response.model_name = message.model_name
    response.infer_response.parameters[FINAL_PARAM].bool_param = True
    return response
