"""Refusals name fields as the clients of each door know them."""

import ast
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest

from coterie.v1 import inference_pb2 as pb
from deployments.gateway import checks, conversation_checks
from deployments.gateway.checks import Limits
from deployments.gateway.conversation_checks import check_conversation, check_metadata
from deployments.gateway.kserve.response import PARAM_NAMES
from deployments.gateway.kserve.sampling import SAMPLING_NAMES
from deployments.gateway.kserve.tensors import INPUT_TYPES
from deployments.gateway.openai.chat import ChatRequest
from deployments.gateway.openai.completion import CompletionRequest
from deployments.types import (
    ChatMessage,
    Conversation,
    Sampling,
    StructuredOutput,
    Tool,
    ToolCall,
)
from infra.errors import CapacityError, InvalidArgumentError, RequestError, field
from tests.builders.fake_service import FakeService
from tests.deployments.gateway.http.asking import chat, complete, post

LIMITS = Limits(max_model_len=100, vocab_size=50, max_outputs=4, max_logprobs=5)
WRONG = [
    Sampling(temperature=-0.1),
    Sampling(top_p=0.0),
    Sampling(top_k=-1),
    Sampling(min_p=1.5),
    Sampling(presence_penalty=3.0),
    Sampling(frequency_penalty=3.0),
    Sampling(repetition_penalty=0.0),
    Sampling(seed=2**63),
    Sampling(max_tokens=0),
    Sampling(min_tokens=-1),
    Sampling(n=0),
    Sampling(n=5),
    Sampling(n=2, temperature=0.0),
    Sampling(logprobs=-1),
    Sampling(logprobs=6),
    Sampling(stop=("",)),
    Sampling(stop=("x",) * 65),
    Sampling(bad_words=("",)),
    Sampling(bad_words=("x",) * 65),
    Sampling(stop_token_ids=(50,)),
    Sampling(stop_token_ids=(1,) * 257),
    Sampling(logit_bias={1: 101.0}),
    Sampling(logit_bias={50: 1.0}),
    Sampling(logit_bias=dict.fromkeys(range(1025), 1.0)),
    Sampling(allowed_token_ids=(-1,)),
    Sampling(structured_output=StructuredOutput(regex="x" * 70_000)),
    Sampling(structured_output=StructuredOutput(choice=("x",) * 1025)),
    Sampling(structured_output=StructuredOutput(choice=("x" * 1025,))),
    Sampling(stop=("x" * 1025,)),
    Sampling(allowed_token_ids=(1,) * 51),
]


def refused(check: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check()
    return caught.value


REFUSALS = [
    *(refused(lambda s=s: checks.check_sampling(s, LIMITS)) for s in WRONG),  # type: ignore[misc]
    refused(lambda: checks.fit_to_context(0, Sampling(), 100)),
    refused(lambda: checks.fit_to_context(100, Sampling(), 100)),
    refused(lambda: checks.fit_to_context(90, Sampling(max_tokens=20), 100)),
    refused(lambda: checks.fit_to_context(90, Sampling(min_tokens=20), 100)),
    refused(lambda: checks.check_token_ids([50], 50, "prompt")),
    refused(lambda: checks.check_request_id("a b")),
    refused(lambda: checks.check_text_size(10**9, "prompt")),
    refused(lambda: checks.check_num_prompts(2, 1)),
]


def conversation(*messages: ChatMessage, tools: Sequence[Tool] = ()) -> Conversation:
    return Conversation(messages, tuple(tools))


def nested(depth: int) -> dict[str, Any]:
    """A schema so many levels deep."""
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


HI = ChatMessage("user", "hi")
CALL = ToolCall("x" * 300, "f", "{}")
WRONG_CONVERSATIONS = [
    conversation(),
    conversation(*[HI] * 4097),
    conversation(ChatMessage("", "hi")),
    conversation(ChatMessage("r" * 65, "hi")),
    conversation(ChatMessage("user", "hi", name="n" * 65)),
    conversation(ChatMessage("assistant", "", tool_calls=(CALL,) * 129)),
    conversation(ChatMessage("assistant", "", tool_calls=(CALL,))),
    conversation(ChatMessage("user", "x" * (checks.MAX_TEXT_CHARS + 1))),
    conversation(HI, tools=[Tool(f"f{n}") for n in range(129)]),
    conversation(HI, tools=[Tool("a b")]),
    conversation(HI, tools=[Tool("f"), Tool("f")]),
    conversation(HI, tools=[Tool("f", "x" * 300_000)]),
    conversation(HI, tools=[Tool("f", parameters=nested(300))]),
    conversation(HI, tools=[Tool("f", parameters=nested(3000))]),
]
CONVERSATION_REFUSALS = [
    refused(lambda c=c: check_conversation(c))  # type: ignore[misc]
    for c in WRONG_CONVERSATIONS
]
# Of fields that one door alone has.
OTHER_REFUSALS = [
    refused(lambda: checks.check_count(65, 64, "parameters")),
    refused(lambda: check_metadata(dict.fromkeys(map(str, range(17)), ""))),
    refused(lambda: check_metadata({"k" * 65: ""})),
]


class Door(NamedTuple):
    """The names that its clients may send, and its mapping of the service's names."""

    fields: frozenset[str]
    param_names: Mapping[str, str]


def _http(request: type[ChatRequest] | type[CompletionRequest]) -> Door:
    # The id is checked where the header is read.
    names = {f.name for f in msgspec.structs.fields(request)} | {"x-request-id"}
    return Door(frozenset(names), {**request.param_names, "request_id": "x-request-id"})


DOORS = {
    "native": Door(
        frozenset(pb.SamplingParameters.DESCRIPTOR.fields_by_name)
        | frozenset(pb.GenerateRequest.DESCRIPTOR.fields_by_name)
        | frozenset(pb.ChatRequest.DESCRIPTOR.fields_by_name)
        | frozenset(pb.GenerateRequest.DESCRIPTOR.oneofs_by_name),
        {},
    ),
    "chat": _http(ChatRequest),
    "completions": _http(CompletionRequest),
    "kserve": Door(
        SAMPLING_NAMES | INPUT_TYPES.keys() | {"id", "model_name", "parameters"}, PARAM_NAMES
    ),
}


def named_in(error: RequestError, names: Mapping[str, str]) -> set[str]:
    """The fields that the message names, as the door words it."""
    marked = re.findall("\u27e6(.*?)\u27e7", error._marked)
    return {names.get(name, name) for name in marked}


CASES = [(name, error) for name in DOORS for error in REFUSALS] + [
    (name, error)
    for name in ("native", "chat")
    for error in CONVERSATION_REFUSALS
    if error.param in DOORS[name].fields
]


@pytest.mark.parametrize(("name", "error"), CASES, ids=lambda v: str(v)[:60])
def test_every_check_names_only_fields_that_the_doors_clients_have(
    name: str, error: RequestError
) -> None:
    door = DOORS[name]
    known = error.renamed(door.param_names)
    assert known.param in door.fields
    assert named_in(error, door.param_names) <= door.fields
    for ours, theirs in door.param_names.items():
        if field(ours) in error._marked:
            assert re.search(rf"\b{theirs}\b", known.message)


def raised_at(error: BaseException) -> tuple[str, int]:
    """File and line of the check that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return frame.filename, frame.lineno or 0


@pytest.mark.parametrize("module", [checks, conversation_checks])
def test_every_check_is_among_them(module: ModuleType) -> None:
    path = str(module.__file__)
    given = [*REFUSALS, *CONVERSATION_REFUSALS, *OTHER_REFUSALS]
    lines = {line for file, line in map(raised_at, given) if file == path}
    raises = [
        n for n in ast.walk(ast.parse(Path(path).read_text())) if isinstance(n, ast.Raise)
    ]
    missing = [
        n.lineno for n in raises if not lines & set(range(n.lineno, (n.end_lineno or 0) + 1))
    ]
    assert missing == []


def test_every_range_and_size_has_a_refusal_above() -> None:
    seen = {error.param for error in REFUSALS}
    assert set(checks._RANGES) <= seen
    assert {f.name for f in msgspec.structs.fields(Sampling)} - seen == {
        "ignore_eos",
        "skip_special_tokens",
        "include_stop",
    }


def test_an_error_is_renamed_once_and_keeps_the_rest() -> None:
    error = InvalidArgumentError(f"{field('n')} is 5, see {field('top_p')}", param="n")
    twin = error.renamed({"n": "best"})
    assert (type(twin), twin.message, str(twin), twin.param) == (
        InvalidArgumentError,
        "best is 5, see top_p",
        "best is 5, see top_p",
        "best",
    )
    assert twin.renamed({"best": "x", "n": "y"}).message == twin.message
    assert (error.message, error.param) == ("n is 5, see top_p", "n")
    assert CapacityError("full", retry_after_s=7).renamed({}).retry_after_s == 7


FORM = refused(
    lambda: checks.check_sampling(
        Sampling(structured_output=StructuredOutput(regex="x" * 70_000)), LIMITS
    )
)


async def test_the_http_doors_word_it_their_way() -> None:
    service = FakeService(refusal=FORM)
    for ask in (chat, complete):
        error = (await ask(service)).json()["error"]
        assert error["param"] == "response_format"
        assert error["message"] == "response_format is over 65536 characters"
    response = await post(service, "/v2/models/tiny/generate", {"text_input": "abc"})
    assert response.json() == {"error": "structured_outputs is over 65536 characters"}
