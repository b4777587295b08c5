"""Refusals name fields as the clients of each door know them."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import pytest

from coterie.v1 import inference_pb2 as pb
from deployments.gateway import checks
from deployments.gateway.checks import Limits
from deployments.gateway.kserve_response import PARAM_NAMES
from deployments.gateway.kserve_sampling import SAMPLING_NAMES
from deployments.gateway.kserve_tensors import INPUT_TYPES
from deployments.gateway.openai_chat import ChatRequest
from deployments.gateway.openai_completion import CompletionRequest
from deployments.types import Sampling, StructuredOutput
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


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("error", REFUSALS, ids=str)
def test_every_check_names_only_fields_that_the_doors_clients_have(
    door: Door, error: RequestError
) -> None:
    known = error.renamed(door.param_names)
    assert known.param in door.fields
    assert named_in(error, door.param_names) <= door.fields
    for ours, theirs in door.param_names.items():
        if field(ours) in error._marked:
            assert re.search(rf"\b{theirs}\b", known.message)


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
