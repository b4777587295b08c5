"""A call that stays open does not outlive its key."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from deployments.gateway.caller import Caller, check_caller, current_caller
from deployments.gateway.security.api_keys import KeyEntry, sha256_of
from deployments.gateway.security.guard import Credentials, Guard
from deployments.gateway.security.key_file import KeyFile, changing
from deployments.kserve import grpc_service_pb2 as kserve_pb
from deployments.kserve import grpc_service_pb2_grpc as kserve_grpc
from infra.errors import UnauthenticatedError
from tests.builders.doors import opened
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.kserve.messages import infer_request
from tests.deployments.gateway.security.conftest import Keys

EXPIRY = datetime(2027, 1, 1, tzinfo=UTC)


class Clock:
    """Seconds since 1970, a minute before the expiry."""

    def __init__(self) -> None:
        self.now_s = EXPIRY.timestamp() - 60

    def __call__(self) -> float:
        return self.now_s


def replace(path: Path, *entries: KeyEntry) -> None:
    with changing(path) as found:
        found[:] = entries


async def test_a_key_that_is_still_valid_passes_the_check(keys: Keys) -> None:
    Guard(KeyFile(keys.file)).enter(Credentials(api_key=keys.operator))
    check_caller()
    assert current_caller() == Caller("ops", is_operator=True)  # type: ignore[arg-type]


async def test_an_open_call_s_key_that_expires_is_refused_from_then_on(keys: Keys) -> None:
    clock = Clock()
    entry = KeyEntry(tenant="acme", sha256=sha256_of(keys.tenant), expires=EXPIRY)
    replace(keys.file, entry)
    Guard(KeyFile(keys.file), clock).enter(Credentials(api_key=keys.tenant))
    check_caller()
    clock.now_s += 60
    with pytest.raises(UnauthenticatedError, match="expired"):
        check_caller()


@pytest.mark.parametrize(("tenant", "words"), [(None, "not valid"), ("globex", "another")])
async def test_an_open_call_s_key_that_is_revoked_or_given_away_is_refused_from_then_on(
    keys: Keys, tenant: str | None, words: str
) -> None:
    file = KeyFile(keys.file)
    Guard(file).enter(Credentials(api_key=keys.tenant))
    entry = None if tenant is None else KeyEntry(tenant=tenant, sha256=sha256_of(keys.tenant))
    replace(keys.file, *([] if entry is None else [entry]))
    file.refresh()
    with pytest.raises(UnauthenticatedError, match=words):
        check_caller()


async def test_a_stream_of_requests_answers_none_after_its_key_was_revoked(
    service: FakeService, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(keys.file)
    monkeypatch.setattr("deployments.gateway.security.door_security.KeyFile", lambda *_: file)
    messages: asyncio.Queue[kserve_pb.ModelInferRequest | None] = asyncio.Queue()

    async def requests() -> AsyncIterator[kserve_pb.ModelInferRequest]:
        while (message := await messages.get()) is not None:
            yield message

    async with (
        opened(service, api_keys_file=keys.file) as (_, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = kserve_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            requests(), metadata=(("x-api-key", keys.tenant),), timeout=30
        )
        answers = aiter(call)
        messages.put_nowait(infer_request(text_input="a"))
        assert (await anext(answers)).error_message == ""
        replace(keys.file)
        file.refresh()
        messages.put_nowait(infer_request(text_input="b"))
        refused = await anext(answers)
        messages.put_nowait(None)
        assert [answer async for answer in answers] == []
    assert "API key is not valid" in refused.error_message
    kind = refused.infer_response.parameters["coterie_error"].string_param
    assert kind == "unauthenticated"
    assert len(service.calls) == 1
