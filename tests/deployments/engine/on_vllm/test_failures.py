"""Whatever vLLM raises reaches the client with a status of the table, by the real path.

A fake `AsyncLLM` raises; `Engine`, link server, link and the gRPC door are real.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from vllm import exceptions as vllm_errors
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc as pb_grpc
from deployments.engine.engine import Engine
from deployments.engine.failures import translated
from deployments.engine.link_server import LinkServer
from deployments.engine.load import EngineLoad
from deployments.gateway.link import Link
from deployments.gateway.resume import ResumableCall
from deployments.gateway.rpc.door import GrpcDoor
from deployments.gateway.service import InferenceService
from deployments.types import Call, CallOptions, Delta, Sampling
from infra.errors import CapacityError, EngineError, InvalidArgumentError

# Importing vLLM takes some 8 s.
pytestmark = pytest.mark.model

TOKEN = "secret"
MODULES = (vllm_errors.__name__, EngineDeadError.__module__)


class FakeLLM:
    """An `AsyncLLM` that makes one token and then fails; at once if `is_early`."""

    def __init__(self, error: Exception | None, *, is_early: bool, finish: str = "") -> None:
        self.errored = False
        self._error = error
        self._is_early = is_early
        self._finish = finish
        model = SimpleNamespace(
            get_diff_sampling_param=dict, max_model_len=100, get_vocab_size=lambda: 100
        )
        cache = SimpleNamespace(num_gpu_blocks=1, block_size=16)
        parallel = SimpleNamespace(local_engines_only=False, data_parallel_size=1)
        self.vllm_config = SimpleNamespace(
            model_config=model,
            cache_config=cache,
            parallel_config=parallel,
            observability_config=SimpleNamespace(otlp_traces_endpoint=None),
        )

    async def generate(
        self, *args: Any, **keywords: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        if not self._is_early:
            yield self._output(None)
        if self._error is not None:
            raise self._error
        yield self._output(self._finish)

    def _output(self, finish_reason: str | None) -> RequestOutput:
        piece = CompletionOutput(0, "a", [7], None, None, finish_reason=finish_reason)
        return RequestOutput("r", None, [1], None, [piece], finished=bool(finish_reason))


class OneLink:
    """An `InferenceService` whose requests all go to one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.request_id, self.model, self.num_prompt_tokens = "r", "m", 1

    async def generate(
        self, model: str, prompt: str, sampling: Sampling, options: CallOptions
    ) -> "OneLink":
        return self

    def deltas(self) -> AsyncGenerator[Delta, None]:
        call = Call("r", [1], Sampling(max_tokens=4))
        return ResumableCall(self._link, call, max_resumes=0).deltas(5)


@asynccontextmanager
async def door_to(llm: FakeLLM) -> AsyncIterator[Any]:
    """A stub of a door behind which this engine is."""
    links = LinkServer(Engine(cast(Any, llm), {}, EngineLoad()), TOKEN)
    port = await links.start("127.0.0.1")
    server = grpc.aio.server()
    async with Link(f"127.0.0.1:{port}", TOKEN) as link:
        await link.wait_up()
        door = GrpcDoor(cast(InferenceService, OneLink(link)))
        pb_grpc.add_InferenceServicer_to_server(door, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield pb_grpc.InferenceStub(channel)
        await server.stop(0)
        assert link.num_open_calls == 0
    await links.stop()


def wrapped(cause: BaseException) -> EngineGenerateError:
    """As vLLM raises what it did not foresee."""
    error = EngineGenerateError()
    error.__cause__ = cause
    return error


CODE = grpc.StatusCode
CASES: Sequence[tuple[Exception, grpc.StatusCode, str]] = [
    (
        vllm_errors.VLLMValidationError("bad", parameter="logit_bias", value=9),
        CODE.INVALID_ARGUMENT,
        "invalid_argument",
    ),
    (
        vllm_errors.VLLMUnprocessableEntityError("bad"),
        CODE.INVALID_ARGUMENT,
        "invalid_argument",
    ),
    (wrapped(ValueError("bad grammar")), CODE.INVALID_ARGUMENT, "invalid_argument"),
    (ValueError("bad grammar"), CODE.INVALID_ARGUMENT, "invalid_argument"),
    (vllm_errors.LoRAAdapterNotFoundError("a", "/a"), CODE.INTERNAL, "internal"),
    (vllm_errors.VLLMNotFoundError("a"), CODE.INTERNAL, "internal"),
    (vllm_errors.QueueOverflowError(), CODE.RESOURCE_EXHAUSTED, "overloaded"),
    (vllm_errors.MaxQueuedTokensError(), CODE.RESOURCE_EXHAUSTED, "overloaded"),
    (vllm_errors.GenerationError(), CODE.UNAVAILABLE, "engine_failed"),
    (vllm_errors.RetryableRequestError(), CODE.UNAVAILABLE, "engine_failed"),
    (EngineDeadError(), CODE.UNAVAILABLE, "engine_failed"),
    (EngineGenerateError(), CODE.UNAVAILABLE, "engine_failed"),
    (wrapped(EngineDeadError()), CODE.UNAVAILABLE, "engine_failed"),
    (wrapped(MemoryError()), CODE.UNAVAILABLE, "engine_failed"),
    (wrapped(TimeoutError()), CODE.UNAVAILABLE, "engine_failed"),
    (wrapped(ConnectionResetError("peer")), CODE.UNAVAILABLE, "engine_failed"),
    (wrapped(TypeError("x")), CODE.UNAVAILABLE, "engine_failed"),
    (
        wrapped(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")),
        CODE.UNAVAILABLE,
        "engine_failed",
    ),
    (NotImplementedError(), CODE.UNAVAILABLE, "engine_failed"),
    (AssertionError(), CODE.UNAVAILABLE, "engine_failed"),
]


@pytest.mark.parametrize(("error", "code", "kind"), CASES, ids=lambda v: str(v)[:40])
async def test_what_vllm_raises_has_a_status(
    error: Exception, code: grpc.StatusCode, kind: str
) -> None:
    async with door_to(FakeLLM(error, is_early=True)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GenerateUnary(pb.GenerateRequest(text="a"), timeout=10)
    assert failed.value.code() is code
    assert dict(failed.value.trailing_metadata())["coterie-error"] == kind


async def test_a_value_error_in_mid_stream_is_not_the_clients() -> None:
    async with door_to(FakeLLM(wrapped(ValueError("x")), is_early=False)) as stub:
        call = stub.Generate(pb.GenerateRequest(text="a"), timeout=10)
        assert (await call.read()).text == "a"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
    assert failed.value.code() is CODE.UNAVAILABLE


async def test_an_output_that_ends_in_an_error_is_a_failure() -> None:
    async with door_to(FakeLLM(None, is_early=False, finish="error")) as stub:
        with pytest.raises(
            grpc.aio.AioRpcError, match="in the middle of the request"
        ) as failed:
            await stub.GenerateUnary(pb.GenerateRequest(text="a"), timeout=10)
    assert failed.value.code() is CODE.UNAVAILABLE


async def test_a_repetition_is_a_stop() -> None:
    async with door_to(FakeLLM(None, is_early=True, finish="repetition")) as stub:
        answer = await stub.GenerateUnary(pb.GenerateRequest(text="a"), timeout=10)
    assert answer.outputs[0].finish_reason == pb.FINISH_REASON_STOP


def test_every_class_of_vllms_tree_is_in_the_cases() -> None:
    def tree(cls: type[BaseException]) -> set[type[BaseException]]:
        return {cls}.union(*(tree(child) for child in cls.__subclasses__()))

    raised = {type(error) for error, _, _ in CASES}
    bases = {
        vllm_errors.VLLMError,
        vllm_errors.VLLMClientError,
        vllm_errors.VLLMServerError,
        vllm_errors.GracefulHTTPError,
        # Of calls that are never made here.
        vllm_errors.ProfilerAlreadyActiveError,
    }
    known = {c for c in tree(vllm_errors.VLLMError) if c.__module__ in MODULES}
    assert known - bases == {c for c in raised if c.__module__ in MODULES}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: vllm_errors.VLLMValidationError("b", parameter="input_tokens"), "prompt"),
        (lambda: vllm_errors.VLLMValidationError("b", parameter="max_tokens"), "max_tokens"),
        (lambda: ValueError("b"), None),
    ],
)
def test_a_refusal_names_the_field_as_it_is_called_here(
    make: Callable[[], Exception], expected: str | None
) -> None:
    error = translated(make())
    assert (type(error), error.message, error.param) == (InvalidArgumentError, "b", expected)


def test_errors_of_ours_stay_as_they_are_and_long_messages_are_cut() -> None:
    mine = CapacityError("full")
    assert translated(mine) is mine
    failed = translated(RuntimeError("x" * 10_000 + "\nmore"))
    assert isinstance(failed, EngineError)
    assert len(failed.message) < 600
