"""Long texts: what keeps them from holding up the gateway, and where they are refused."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from coterie.v1 import inference_pb2 as pb
from coterie.v1 import inference_pb2_grpc
from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.checks import MAX_TEXT_CHARS, MAX_TOKEN_IDS
from deployments.gateway.cluster_service import ClusterService
from deployments.gateway.served_model import ServedModel
from deployments.gateway.tokenizer import Tokenizer
from deployments.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from deployments.settings import GatewaySection, ModelSection
from deployments.types import CallOptions, Pooling, Sampling
from infra.errors import DeadlineError, InvalidArgumentError
from router.admission import Admission
from router.settings import AdmissionSection
from router.tenants import Tenants
from tests.builders.doors import opened
from tests.deployments.gateway.kserve.messages import infer_request

LONG = "a" * 5000


class HeldTokenizer:
    """Stands for a Hugging Face tokenizer; long work waits until it is let go."""

    chat_template = None

    def __init__(self) -> None:
        self.is_let = threading.Event()
        self.num_under_way = 0

    def __len__(self) -> int:
        return 256

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self._wait()
        return [len(text)]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        self._wait()
        return "a" * len(token_ids)

    def _wait(self) -> None:
        self.num_under_way += 1
        assert self.is_let.wait(2), "it was waited for in the event loop"
        self.num_under_way -= 1


@pytest.fixture
def held() -> Iterator[HeldTokenizer]:
    tokenizer = HeldTokenizer()
    yield tokenizer
    tokenizer.is_let.set()


def service_of(hf_tokenizer: Any, task: str = "generate") -> ClusterService:
    """The real service in front of a model whose engines have all the time there is."""
    section = ModelSection.model_validate({"name": "m", "model": "some/model", "task": task})
    served = SimpleNamespace(
        section=section,
        tokenizer=Tokenizer(hf_tokenizer),
        vocab_size=256,
        max_model_len=10**7,
    )
    admission = AdmissionSection()
    gate = AdmissionGate(Admission(admission, Tenants()), admission, replica_wait_s=lambda _: 5)
    return ClusterService(GatewaySection(), [cast(ServedModel, served)], gate)


@pytest.mark.parametrize(
    "work",
    [
        lambda tokenizer: tokenizer.encode(LONG),
        lambda tokenizer: tokenizer.encode_all(["a" * 10] * 1000),
        lambda tokenizer: tokenizer.encode_all(["a" * 4000] * 3),
        lambda tokenizer: tokenizer.decode([1] * 5000, skip_special_tokens=True),
    ],
    ids=["a long text", "many short texts", "some texts", "many token ids"],
)
async def test_long_work_leaves_the_event_loop_to_the_streams(
    held: HeldTokenizer, work: Callable[[Tokenizer], Awaitable[Any]]
) -> None:
    task = asyncio.ensure_future(work(Tokenizer(held)))
    await asyncio.sleep(0.01)
    held.is_let.set()
    assert await task


async def test_streams_have_their_turn_between_short_texts() -> None:
    tokenizer = HeldTokenizer()
    tokenizer.is_let.set()
    gateway = Tokenizer(tokenizer)
    turns = []

    async def stream() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    streaming = asyncio.create_task(stream())
    for _ in range(100):
        await gateway.encode("short")
    streaming.cancel()
    assert len(turns) >= 100


async def test_only_a_few_long_texts_are_worked_on_and_other_threads_are_left(
    held: HeldTokenizer,
) -> None:
    tokenizer = Tokenizer(held)
    tasks = [asyncio.create_task(tokenizer.encode(LONG)) for _ in range(100)]
    await asyncio.sleep(0.05)
    assert held.num_under_way == 4
    async with asyncio.timeout(1):
        assert await asyncio.to_thread(lambda: 7) == 7
    for task in tasks[1:]:
        task.cancel()
    held.is_let.set()
    assert await tasks[0] == [5000]


async def test_waiting_for_a_long_text_counts_towards_the_deadline(held: HeldTokenizer) -> None:
    service = service_of(held)
    with pytest.raises(DeadlineError, match="tokenized"):
        await service.generate("m", LONG, Sampling(), CallOptions(timeout_s=0.05))


async def test_what_tokenizing_took_is_not_left_for_the_answer(held: HeldTokenizer) -> None:
    service = service_of(held)
    asyncio.get_running_loop().call_later(0.2, held.is_let.set)
    generation = await service.generate("m", LONG, Sampling(), CallOptions(timeout_s=1))
    assert generation._timeout_s < 0.9


TOO_MANY_IDS = [1] * (MAX_TOKEN_IDS + 1)


@pytest.mark.parametrize(
    ("work", "param"),
    [
        (lambda s: s.tokenize("m", "a" * (MAX_TEXT_CHARS + 1)), "text"),
        (lambda s: s.detokenize("m", TOO_MANY_IDS, skip_special_tokens=True), "token_ids"),
        (lambda s: s.generate("m", TOO_MANY_IDS, Sampling(), CallOptions()), "prompt"),
    ],
    ids=["tokenize", "detokenize", "generate"],
)
async def test_work_of_any_size_is_refused_whatever_the_door(
    work: Callable[[ClusterService], Awaitable[Any]], param: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await work(service_of(HeldTokenizer()))
    assert refused.value.param == param


async def test_the_texts_of_an_embedding_have_one_limit_together() -> None:
    service = service_of(HeldTokenizer(), task="embed")
    texts = ["a" * (MAX_TEXT_CHARS // 2 + 1)] * 2
    with pytest.raises(InvalidArgumentError, match="characters"):
        await service.embed("m", texts, Pooling(), CallOptions())


@asynccontextmanager
async def channel_to(service: ClusterService) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        opened(service) as (_, address, _),
        grpc.aio.insecure_channel(
            address, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        yield channel


async def test_texts_over_the_limit_are_refused_through_grpc_and_kserve() -> None:
    text = "a" * (MAX_TEXT_CHARS + 1)
    async with channel_to(service_of(HeldTokenizer())) as channel:
        native = inference_pb2_grpc.InferenceStub(channel)
        calls: list[tuple[Awaitable[Any], str]] = [
            (native.GenerateUnary(pb.GenerateRequest(text=text)), "prompt"),
            (native.Tokenize(pb.TokenizeRequest(text=text)), "text"),
            (_kserve(channel, text), "text_input"),
        ]
        for call, name in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details() == f"{name} has over {MAX_TEXT_CHARS} characters"


async def _kserve(channel: grpc.aio.Channel, text: str) -> Any:
    request = infer_request(text_input=text)
    request.model_name = "m"
    return await GRPCInferenceServiceStub(channel).ModelInfer(request)
