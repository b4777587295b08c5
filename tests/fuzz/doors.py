"""A gateway's doors before strangers: the real doors, service, checks, admission and links,
with an engine behind them that says three tokens.

Whatever comes, the answer is one that a client can do something with: no internal error, no
connection that ends for another's request, and nothing left open afterwards.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from coterie.v1 import inference_pb2 as pb
from deployments.engine.link_server import LinkServer
from deployments.gateway.admission_gate import AdmissionGate
from deployments.gateway.cluster_service import ClusterService
from deployments.gateway.served_model import ServedModel
from deployments.gateway.tokenizer import Tokenizer
from deployments.kserve import grpc_service_pb2 as kserve
from deployments.settings import GatewaySection, ModelSection
from deployments.types import Call, Delta, Embedding
from infra.errors import CoterieError
from router.admission import Admission
from router.settings import AdmissionSection, RouterSection
from router.tenants import Tenants
from tests.builders.doors import opened
from tests.fuzz.mutations import JsonMutations, Mutations
from tests.fuzz.readers import Findings

TOKEN = "secret"
TEXT, VECTORS = "text", "vectors"
_NUM_TOKENS = 3
_VECTOR = bytes(4 * 8)
_MAX_MODEL_LEN = 512
_AT_ONCE = 16
_LIMIT_S = 20.0


class ShortEngine:
    """Says three tokens, or a vector."""

    def __init__(self) -> None:
        self.num_open = 0

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """See `CallRunner.run`."""
        self.num_open += 1
        try:
            await asyncio.sleep(0)
            if call.pooling is not None:
                yield Embedding(0, "", [], "stop", vector=_VECTOR), True
                return
            num_tokens = min(_NUM_TOKENS, call.sampling.max_tokens or _NUM_TOKENS)
            for index in range(call.sampling.n):
                for number in range(num_tokens):
                    is_end = number == num_tokens - 1
                    reason: Any = "stop" if is_end else None
                    is_last = is_end and index == call.sampling.n - 1
                    yield Delta(index, "a ", [number + 5], reason), is_last
        finally:
            self.num_open -= 1


@dataclass
class Doors:
    """Where they are, and what is behind them."""

    grpc_address: str
    http_address: str
    engine: ShortEngine
    gate: AdmissionGate


@asynccontextmanager
async def doors(tokenizer: Tokenizer) -> AsyncIterator[Doors]:
    """Of two models, one of which makes vectors."""
    engine = ShortEngine()
    server = LinkServer(engine, TOKEN)
    port = await server.start("127.0.0.1")
    sections = [
        ModelSection(name=TEXT, model="some/model", tool_parser="hermes"),
        ModelSection(name=VECTORS, model="some/model", task="embed"),
    ]
    served = [ServedModel(s, tokenizer, TOKEN, RouterSection()) for s in sections]
    admission = AdmissionSection()
    gate = AdmissionGate(Admission(admission, Tenants()), admission, lambda _: 5)
    for each in served:
        each.on_change(_places(gate, each))
        replica = {"address": f"127.0.0.1:{port}", "max_model_len": _MAX_MODEL_LEN}
        vocab_size = {"vocab_size": tokenizer.vocab_size}
        each.set_replicas({f"replica-{each.section.name}": replica | vocab_size})
    async with asyncio.timeout(5):
        while not all(each.num_ready_replicas for each in served):
            await asyncio.sleep(0.005)
    service = ClusterService(GatewaySection(), served, gate)
    try:
        async with opened(service) as (_, grpc_address, http_address):
            yield Doors(grpc_address, http_address, engine, gate)
    finally:
        for each in served:
            each.check_invariants()
            await each.close()
        await server.stop()


def _places(gate: AdmissionGate, served: ServedModel) -> Callable[[], None]:
    return lambda: gate.set_places(served.section.name, served.num_places)


@dataclass(frozen=True)
class GrpcMethod:
    """One method of a door, and good requests."""

    path: str
    samples: Sequence[bytes]
    is_stream: bool = False
    takes_stream: bool = False


def native_methods() -> list[GrpcMethod]:
    """Of `coterie.v1`."""
    sampling = pb.SamplingParameters(
        temperature=0.5, stop=["x"], n=2, max_tokens=3, logit_bias={5: 1.0}, bad_words=["no"]
    )
    by_text = pb.GenerateRequest(model=TEXT, text="Hello there", sampling=sampling)
    ids = pb.GenerateRequest(model=TEXT, token_ids=pb.TokenIds(ids=[5, 6, 7]), request_id="r")
    message = pb.Message(role="user", content="Hi")
    chat = pb.ChatRequest(model=TEXT, messages=[message, message], sampling=sampling)
    embed = pb.EmbedRequest(model=VECTORS, inputs=[pb.EmbedInput(text="Hi")], dimensions=4)
    tokenize = pb.TokenizeRequest(model=TEXT, text="Hi there")
    detokenize = pb.DetokenizeRequest(model=TEXT, token_ids=[5, 6])
    service = "/coterie.v1.Inference/"
    generates = [by_text.SerializeToString(), ids.SerializeToString()]
    chats = [chat.SerializeToString()]
    return [
        GrpcMethod(f"{service}Generate", generates, is_stream=True),
        GrpcMethod(f"{service}GenerateUnary", generates),
        GrpcMethod(f"{service}Chat", chats, is_stream=True),
        GrpcMethod(f"{service}ChatUnary", chats),
        GrpcMethod(f"{service}Embed", [embed.SerializeToString()]),
        GrpcMethod(f"{service}Tokenize", [tokenize.SerializeToString()]),
        GrpcMethod(f"{service}Detokenize", [detokenize.SerializeToString()]),
        GrpcMethod(f"{service}GetModel", [pb.GetModelRequest(name=TEXT).SerializeToString()]),
    ]


def kserve_methods() -> list[GrpcMethod]:
    """Of KServe's open inference protocol."""
    infer = kserve.ModelInferRequest(model_name=TEXT, id="7")
    for name, datatype, contents in (
        ("text_input", "BYTES", kserve.InferTensorContents(bytes_contents=[b"Hello"])),
        ("stream", "BOOL", kserve.InferTensorContents(bool_contents=[True])),
    ):
        tensor = infer.inputs.add(name=name, datatype=datatype, shape=[1])
        tensor.contents.CopyFrom(contents)
    infer.parameters["temperature"].double_param = 0.5
    infer.parameters["max_tokens"].int64_param = 3
    metadata = kserve.ModelMetadataRequest(name=TEXT)
    service = "/inference.GRPCInferenceService/"
    infers = [infer.SerializeToString()]
    return [
        GrpcMethod(f"{service}ModelInfer", infers),
        GrpcMethod(f"{service}ModelStreamInfer", infers, is_stream=True, takes_stream=True),
        GrpcMethod(f"{service}ModelMetadata", [metadata.SerializeToString()]),
        GrpcMethod(f"{service}ModelReady", [metadata.SerializeToString()]),
    ]


async def run_grpc(
    name: str, methods: Sequence[GrpcMethod], at: Doors, num_inputs: int, dice: random.Random
) -> Findings:
    """So many calls of these methods, some at a time."""
    found = Findings(name)
    async with grpc.aio.insecure_channel(at.grpc_address) as channel:
        asks = [_grpc_ask(channel, method, dice) for method in methods]

        async def ask() -> tuple[str, bytes]:
            found: tuple[str, bytes] = await dice.choice(asks)()
            return found

        await _run(found, num_inputs, ask)
    return found


def _grpc_ask(channel: Any, method: GrpcMethod, dice: random.Random) -> Any:
    mutations = Mutations(method.samples, dice)
    kinds = {(False, False): channel.unary_unary, (True, False): channel.unary_stream}
    make = kinds.get((method.is_stream, method.takes_stream), channel.stream_stream)
    call_of = make(method.path, request_serializer=None, response_deserializer=None)

    async def once(data: bytes) -> None:
        if method.takes_stream:
            call = call_of(iter([data, method.samples[0]]), timeout=_LIMIT_S)
        else:
            call = call_of(data, timeout=_LIMIT_S)
        if method.is_stream:
            async for _ in call:
                pass
        else:
            await call

    async def ask() -> tuple[str, bytes]:
        data = mutations.next()
        for is_last in (False, False, True):
            try:
                await once(data)
            except grpc.aio.AioRpcError as error:
                if method.takes_stream and error.details() == _CLIENT_SAYS and not is_last:
                    continue
                if error.code() in _GRPC_FAILURES:
                    return f"failure {method.path} {error.code().name} {error.details()}", data
                return error.code().name.lower(), data
            break
        return "ok", data

    return ask


_CLIENT_SAYS = "Internal error from Core"
"""grpcio's asyncio client itself, where a stream has been ended by the server while it was
still sending: the status that the server gave is lost. No server says so."""

_GRPC_FAILURES = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}


def http_samples() -> dict[str, list[Any]]:
    """Good bodies, by path."""
    chat = {
        "model": TEXT,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "max_completion_tokens": 3,
        "temperature": 0.5,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_object"},
    }
    completion = {"model": TEXT, "prompt": ["Hi", "Ho"], "max_tokens": 2, "n": 2, "seed": 7}
    generate = {"id": "7", "text_input": "Hi", "parameters": {"max_tokens": 2, "stop": ["x"]}}
    return {
        "/v1/chat/completions": [chat, {"model": TEXT, "messages": chat["messages"]}],
        "/v1/completions": [completion, {"model": TEXT, "prompt": [5, 6], "stream": True}],
        "/v1/embeddings": [{"model": VECTORS, "input": ["Hi", "Ho"], "dimensions": 4}],
        "/v1/responses": [{"model": TEXT, "input": "Hi", "max_output_tokens": 3}],
        f"/v2/models/{TEXT}/generate": [generate],
        f"/v2/models/{TEXT}/generate_stream": [generate],
    }


async def run_http(at: Doors, num_inputs: int, dice: random.Random) -> Findings:
    """So many bodies, on connections that are kept."""
    found = Findings("http")
    mutations = {path: JsonMutations(s, dice) for path, s in http_samples().items()}
    paths = list(mutations)

    async with aiohttp.ClientSession(f"http://{at.http_address}") as session:

        async def ask() -> tuple[str, bytes]:
            path = dice.choice(paths)
            data = mutations[path].next()
            headers = {"content-type": "application/json"}
            timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
            try:
                async with session.post(path, data=data, headers=headers, timeout=timeout) as r:
                    body = await r.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                return f"failure {path} {error!r}", data
            if r.status >= 500 or (r.status >= 400 and not _is_error(body)):
                return f"failure {path} {r.status} {body[:200]!r}", data
            return str(r.status), data

        await _run(found, num_inputs, ask)
    return found


def _is_error(body: bytes) -> bool:
    """In the form of OpenAI's or of KServe's clients."""
    try:
        return bool(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return False


async def _run(found: Findings, num_inputs: int, ask: Callable[[], Any]) -> None:
    began_s = time.perf_counter()

    async def some() -> None:
        while found.num_inputs < num_inputs:
            found.num_inputs += 1
            started_s = time.perf_counter()
            outcome, data = await ask()
            found.slowest_s = max(found.slowest_s, time.perf_counter() - started_s)
            if outcome.startswith("failure"):
                found.note_failure(outcome, data)
            else:
                found.outcomes[outcome] += 1

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
    found.seconds = time.perf_counter() - began_s


async def check_left(at: Doors, found: Findings) -> None:
    """A good request is still answered, and nothing is left of the others."""
    url = f"http://{at.http_address}/v1/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"model": TEXT, "prompt": "Hi", "max_tokens": 2}) as answer,
    ):
        if answer.status != 200:
            found.note_failure(f"a good request afterwards: {answer.status}", b"")
    try:
        async with asyncio.timeout(5):
            while at.engine.num_open or at.gate.num_held(TEXT) or at.gate.num_taken(TEXT):
                await asyncio.sleep(0.01)
    except TimeoutError:
        found.note_failure(f"{at.engine.num_open} calls are left", b"")
    try:
        at.gate.check_invariants()
    except (AssertionError, CoterieError) as error:
        found.note_failure(f"admission: {error!r}", b"")
