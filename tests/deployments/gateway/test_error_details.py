"""What a client reads of a failure: standard details, and the table in the documents."""

import base64
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc as pb_grpc
from deployments.gateway.rpc.door import GrpcDoor
from deployments.gateway.rpc.error_details import DETAILS_KEY, status_message, trailing_metadata
from deployments.gateway.status import INTERNAL, STATUS_TABLE, status_of
from infra import errors
from infra.errors import (
    CapacityError,
    CoterieError,
    EngineError,
    InvalidArgumentError,
    PromptTooLongError,
)
from tests.builders.fake_service import FakeService, Step, text_deltas
from tests.source_code import REPOSITORY


class Details(NamedTuple):
    reason: str
    field: str | None
    retry_after_ms: int | None


def details_of(encoded: bytes) -> Details:
    status = status_pb2.Status.FromString(encoded)
    found: dict[type, Any] = {}
    for packed in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        ):
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    info = found[error_details_pb2.ErrorInfo]
    assert info.domain == "coterie"
    bad, retry = (
        found.get(k) for k in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    )
    return Details(
        info.reason,
        bad.field_violations[0].field if bad else None,
        retry.retry_delay.ToMilliseconds() if retry else None,
    )


def all_kinds(base: type[CoterieError] = CoterieError) -> list[type[CoterieError]]:
    found = [base]
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            found += all_kinds(child)
    return found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            InvalidArgumentError("no", param="top_p"),
            Details("INVALID_ARGUMENT", "top_p", None),
        ),
        (
            PromptTooLongError("no", param="prompt"),
            Details("PROMPT_TOO_LONG", "prompt", None),
        ),
        (CapacityError("no"), Details("OVERLOADED", None, 1000)),
        (CapacityError("no", retry_after_s=2.5), Details("OVERLOADED", None, 2500)),
        (EngineError("no"), Details("ENGINE_FAILED", None, 1000)),
    ],
)
def test_the_standard_details_say_what_is_wrong_and_when_to_come_back(
    error: CoterieError, expected: Details
) -> None:
    encoded = dict(trailing_metadata(error))[DETAILS_KEY]
    assert isinstance(encoded, bytes)
    assert details_of(encoded) == expected


@pytest.mark.parametrize("kind", all_kinds())
@pytest.mark.parametrize("char", ["a", "%", "\n", "é", "模", "😀"])
def test_every_error_fits_into_the_metadata_that_peers_take(
    kind: type[CoterieError], char: str
) -> None:
    error = kind(char * 100_000, param=char * 1000)
    num_bytes = len(quote(status_message(error), safe=""))
    for key, value in trailing_metadata(error):
        given = value.encode() if isinstance(value, str) else base64.b64encode(value)
        num_bytes += len(key) + len(given)
    assert num_bytes < 7 * 1024
    assert len(status_message(error)) >= 250


def test_a_message_of_usual_length_is_not_cut() -> None:
    words = "there is no model ö; this cluster serves: tiny"
    assert status_message(CoterieError(words)) == words


@pytest.mark.parametrize("name", ["模" * 5000, "😀" * 5000, "%" * 5000, "é" * 100])
async def test_an_error_about_text_in_any_script_arrives_with_its_status(
    stub: Any, name: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.GetModel(pb.GetModelRequest(name=name))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert name[:50] in str(failed.value.details())
    assert dict(failed.value.trailing_metadata())["coterie-error"] == "unknown_model"


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[Any]:
    script: list[Step] = [*text_deltas("a", "b")[:1], CapacityError("full", retry_after_s=3)]
    server = grpc.aio.server()
    pb_grpc.add_InferenceServicer_to_server(GrpcDoor(FakeService(script)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield pb_grpc.InferenceStub(channel)
    await server.stop(0)


async def test_details_arrive_through_the_door_in_mid_stream(stub: Any) -> None:
    call = stub.Generate(pb.GenerateRequest(text="hi"))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in call:
            pass
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(failed.value.trailing_metadata())
    assert trailing["coterie-error"] == "overloaded"
    assert details_of(trailing[DETAILS_KEY]) == Details("OVERLOADED", None, 3000)


async def test_a_refusal_names_its_field(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Tokenize(pb.TokenizeRequest())
    trailing = dict(failed.value.trailing_metadata())
    assert details_of(trailing[DETAILS_KEY]) == Details("INVALID_ARGUMENT", "text", None)


def test_the_table_in_the_documents_is_that_of_the_code() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| `([A-Z_]+)` \| (\d{3}) \| `(\w+)` \| (yes|no) \|", text, re.MULTILINE
    )
    expected = {}
    for kind in all_kinds():
        if kind is CoterieError or status_of(kind("")) is not INTERNAL:
            status = status_of(kind(""))
            retried = "yes" if status.is_passing else "no"
            assert status.is_passing is (kind.retry_after_s is not None)
            row = (status.grpc_code.name, str(status.http_status), status.openai_type, retried)
            expected[kind.kind] = row
    assert {row[0]: row[1:] for row in rows} == expected
    assert set(STATUS_TABLE) <= set(all_kinds())
