"""Failures of the cluster come out of the client as the errors that went in."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from coterie import Client, errors
from coterie.connection import Connection
from coterie.errors import CallSite, error_of
from coterie.v1 import inference_pb2_grpc
from tests.builders.fake_inference import FakeInference

RAISED = [
    errors.RequestError,
    errors.InvalidArgumentError,
    errors.PromptTooLongError,
    errors.UnknownModelError,
    errors.UnknownMethodError,
    errors.UnauthenticatedError,
    errors.ForbiddenError,
    errors.CapacityError,
    errors.NoReplicaError,
    errors.DeadlineError,
    errors.EngineError,
    errors.CoterieError,
]


@pytest.mark.parametrize("cls", RAISED)
def test_an_error_of_the_cluster_arrives_as_the_same_class(
    cls: type[errors.CoterieError], client: Client, fake: FakeInference
) -> None:
    fake.failure = cls("change this")
    with pytest.raises(cls) as unary:
        client.generate_unary("abc")
    with pytest.raises(cls) as stream:
        list(client.chat("abc"))
    assert (type(unary.value), unary.value.message) == (cls, "change this")
    assert (type(stream.value), stream.value.message) == (cls, "change this")


def test_an_engine_failure_comes_after_the_chunks_before_it(
    client: Client, fake: FakeInference
) -> None:
    fake.failure, fake.fail_after = errors.EngineError("the engine died"), 4
    texts = []
    with pytest.raises(errors.EngineError, match="the engine died"):
        for chunk in client.generate("abc"):
            texts.append(chunk.text)
    assert texts == list("ther")


def test_an_absent_cluster_is_unavailable(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    message = f"no Coterie cluster answers at {address}; start one with `coterie up`"
    with Client(address, max_retries=0) as client:
        with pytest.raises(errors.UnavailableError) as unary:
            client.models()
        with pytest.raises(errors.UnavailableError) as stream:
            list(client.generate("abc"))
    assert (unary.value.message, stream.value.message) == (message, message)


def test_a_cluster_that_says_nothing_is_told_from_one_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
        with (
            Client(address, max_retries=0) as client,
            pytest.raises(errors.UnavailableError) as raised,
        ):
            client.models()
    assert raised.value.may_return and not raised.value.was_connected
    assert raised.value.message.startswith(
        f"nothing answers at {address}, and nothing refuses to: "
    )


class _Failed:
    """A failed call without Coterie's metadata, as a proxy might cause it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (grpc.StatusCode.NOT_FOUND, errors.UnknownModelError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.ForbiddenError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.CapacityError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, errors.UnavailableError),
        (grpc.StatusCode.INTERNAL, errors.CoterieError),
    ],
)
def test_without_a_kind_the_grpc_code_decides(
    code: grpc.StatusCode, cls: type[errors.CoterieError]
) -> None:
    error = error_of(_Failed(code, "words"), CallSite("host:1"))
    assert type(error) is cls
    assert "words" in error.message


def test_a_connection_that_breaks_is_not_told_as_an_absent_cluster() -> None:
    error = error_of(_Failed(grpc.StatusCode.UNAVAILABLE, "Socket closed"), CallSite("host:1"))
    assert (
        error.message == "the connection to host:1 ended before the answer did: Socket closed"
    )


def test_a_certificate_of_a_stranger_is_not_told_as_an_absent_cluster() -> None:
    details = "failed to connect to all addresses; last error: Tls handshake failed (X)"
    error = error_of(_Failed(grpc.StatusCode.UNAVAILABLE, details), CallSite("host:1"))
    assert error.message.startswith("no secure connection to host:1; is ca_file its authority?")


def test_a_connection_that_breaks_asks_for_no_other_try() -> None:
    error = error_of(_Failed(grpc.StatusCode.UNAVAILABLE, "Socket closed"), CallSite("host:1"))
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    ("details", "may_return"),
    [
        ("Stream removed (ping timeout)", True),
        ("keepalive timeout", True),
        ("Socket closed", False),
        ("Connection reset by peer", False),
    ],
)
def test_a_connection_that_falls_silent_is_told_from_one_that_ends(
    details: str, may_return: bool
) -> None:
    error = error_of(_Failed(grpc.StatusCode.UNAVAILABLE, details), CallSite("host:1"))
    assert isinstance(error, errors.UnavailableError)
    assert (error.was_connected, error.may_return) == (True, may_return)


def test_a_message_that_grpc_finds_too_large_is_told_as_that(fake: FakeInference) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", 1000)])
        inference_pb2_grpc.add_InferenceServicer_to_server(fake, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        with Client(address) as client:
            with pytest.raises(errors.RequestTooLargeError, match=r"1000.*; send less"):
                client.generate_unary("x" * 2000)
            assert client.generate_unary("x" * 500).text
        server.stop(grace=0).wait()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost", "localhost:9000"),
        ("localhost:9100", "localhost:9100"),
        ("[::1]", "[::1]:9000"),
        ("[::1]:9100", "[::1]:9100"),
        ("dns:///cluster.example:9000", "dns:///cluster.example:9000"),
        ("unix:/run/coterie.sock", "unix:/run/coterie.sock"),
    ],
)
def test_an_address_without_a_port_means_the_default_port(given: str, meant: str) -> None:
    assert Connection(given).address == meant


def test_an_http_address_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="HOST:PORT"):
        Client("http://localhost:8000")


@pytest.mark.parametrize(
    ("address", "is_passed_by"),
    [("localhost:9000", True), ("127.0.0.2", True), ("[::1]:1", True), ("far:9000", False)],
)
def test_an_http_proxy_is_passed_by_on_this_machine_only(
    address: str, is_passed_by: bool
) -> None:
    assert (("grpc.enable_http_proxy", 0) in Connection(address).options) is is_passed_by


HEAVY = {"ray", "torch", "vllm", "fastapi", "pydantic", "transformers", "numpy", "rich"}


@pytest.mark.parametrize("module", ["coterie", "coterie.v1.inference_pb2_grpc"])
def test_importing_the_client_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert HEAVY.isdisjoint(run.stdout.split())
