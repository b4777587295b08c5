"""The KServe driver of `coterie bench` against the gateway's own KServe door."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from click.testing import CliRunner, Result

from coterie import errors
from coterie.benchmark.driver import Manner
from coterie.benchmark.kserve import KServeDriver, values_of
from coterie.benchmark.types import Ask, Counts, Piece
from coterie.cli.main import cli
from deployments.gateway.kserve.door import KServeDoor
from deployments.kserve import grpc_service_pb2 as pb
from deployments.kserve.grpc_service_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from deployments.types import Sampling
from infra.errors import CapacityError
from tests.builders.fake_service import FakeService, model_card, text_deltas


@asynccontextmanager
async def serving(service: FakeService) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(KServeDoor(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)
    service.check_invariants()


@asynccontextmanager
async def driving(service: FakeService, **manner: object) -> AsyncIterator[KServeDriver]:
    async with serving(service) as address:
        driver = KServeDriver(address, Manner(**({"model": "tiny"} | manner)))  # type: ignore[arg-type]
        try:
            yield driver
        finally:
            await driver.close()


async def test_pieces_arrive_and_then_the_counts() -> None:
    service = FakeService(text_deltas("Hel", "lo"))
    async with driving(service, temperature=0, ignore_eos=True) as driver:
        await driver.prepare()
        found = [piece async for piece in driver.stream(Ask("abc", 7))]
    assert found == [Piece(True), Piece(True), Piece(False, Counts(3, 5, 0))]
    asked = service.last_call
    assert (asked.prompt, asked.stream) == ("abc", True)
    assert asked.sampling == Sampling(temperature=0, max_tokens=7, ignore_eos=True)


async def test_a_failure_in_a_stream_has_the_gateways_own_word() -> None:
    service = FakeService([*text_deltas("a", "b")[:1], CapacityError("full")])
    pieces: list[Piece] = []
    async with driving(service) as driver:
        with pytest.raises(errors.CoterieError, match="full") as failed:
            async for piece in driver.stream(Ask("abc", 7)):
                pieces.append(piece)
    assert (failed.value.kind, pieces) == ("overloaded", [Piece(True)])


async def test_a_model_that_is_not_ready_is_told_before_the_load() -> None:
    service = FakeService(cards=[model_card(num_ready_replicas=0)])
    async with driving(service) as driver:
        with pytest.raises(errors.UnknownModelError, match="has no model tiny that is ready"):
            await driver.prepare()


async def test_leaving_early_ends_the_request() -> None:
    service = FakeService([*text_deltas("a", "b")[:1], asyncio.Event()])
    async with driving(service) as driver:
        stream = driver.stream(Ask("abc", 7))
        assert await anext(stream) == Piece(True)
        await stream.aclose()  # type: ignore[attr-defined]
        await service.wait_aborted()


async def test_an_absent_server_is_unavailable(unused_tcp_port: int) -> None:
    driver = KServeDriver(f"127.0.0.1:{unused_tcp_port}", Manner(model="tiny"))
    with pytest.raises(errors.UnavailableError):
        await driver.prepare()
    await driver.close()


def test_outputs_of_another_kind_of_model_are_refused() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[struct.pack("<f", 1.0)])
    response.outputs.add(name="score", datatype="FP32", shape=[1])
    with pytest.raises(errors.UnavailableError, match="score of type FP32"):
        values_of(response)


def bench(*args: str) -> Result:
    return CliRunner().invoke(cli, ("bench", *args), env={"COTERIE_API_KEY": None})


async def test_the_command_drives_a_kserve_server() -> None:
    service = FakeService(text_deltas("one", "two"))
    async with serving(service) as address:
        load = ("--requests", "3", "--prompt-tokens", "5", "--json", "--model", "tiny")
        args = ("--api", "kserve", "--address", address, *load)
        result = await asyncio.to_thread(bench, *args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["num_requests"], found["num_output_tokens"]) == (3, 18)
    assert {call.sampling.max_tokens for call in service.calls} == {64}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--api", "kserve"), "name the model"),
        (("--api", "kserve", "--model", "m", "--chat"), "leave out --chat"),
        (("--api", "openai"), "--url"),
        (("--api", "kserve", "--url", "http://a/v1"), "--url"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    args: tuple[str, ...], words: str
) -> None:
    result = bench(*args)
    assert result.exit_code == 2
    assert words in result.stderr
