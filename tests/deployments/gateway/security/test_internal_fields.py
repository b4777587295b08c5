"""What steers the engine from inside is taken from no client, at no door.

The names are those of vLLM's own server and sampling parameters, by which it would
take the cache's salt, another replica's KV blocks, templates that run as code, or
tensors.
"""

import json
from typing import Any

import httpx2
import pytest

from coterie.v1 import inference_pb2
from deployments.gateway.http_door import http_app
from deployments.gateway.kserve.request import decode_request
from deployments.settings import GatewaySection
from infra.errors import InvalidArgumentError
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.kserve.messages import infer_request

INTERNAL: dict[str, Any] = {
    "cache_salt": "other-tenant",
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": True},
    "detokenize": False,
    "documents": [{"text": "a"}],
    "ec_transfer_params": {"a": 1},
    "extra_args": {"kv_transfer_params": {}},
    "kv_transfer_params": {"remote_block_ids": [1]},
    "logits_processors": ["os.system"],
    "media_io_kwargs": {"image": {}},
    "mm_payload": [1],
    "mm_processor_kwargs": {"a": 1},
    "multi_modal_data": {"image": "file:///etc/passwd"},
    "output_kind": 1,
    "priority": -5,
    "prompt_embeds": "AAAA",
    "request_id": "of-another-request",
    "return_mm_kwargs": True,
    "routed_experts_prompt_start": 0,
    "session_id": "a",
    "skip_clone": True,
    "skip_reading_prefix_cache": True,
    "stream_interval": 100,
    "trace_decode_token_ids": [1],
    "trust_remote_code": True,
    "vllm_xargs": {"a": 1},
    "watermarking": {"a": 1},
}
# The least that each path that takes a body needs beside.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v2/models/{name:path}/generate": {"text_input": "hi"},
    "/v2/models/{name:path}/generate_stream": {"text_input": "hi"},
    "/v2/models/{name:path}/versions/{version}/generate": {"text_input": "hi"},
    "/v2/models/{name:path}/versions/{version}/generate_stream": {"text_input": "hi"},
}


def app_of(service: FakeService) -> Any:
    return http_app(service, GatewaySection())


def paths_with_bodies() -> list[str]:
    routes: list[Any] = app_of(FakeService()).routes
    return [route.path for route in routes if "POST" in route.methods]


async def posted(service: FakeService, path: str, body: dict[str, Any]) -> httpx2.Response:
    path = path.replace("{name:path}", "tiny").replace("{version}", "1")
    transport = httpx2.ASGITransport(app_of(service), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize("path", paths_with_bodies())
async def test_no_http_path_takes_an_internal_field(path: str) -> None:
    service = FakeService(text_deltas("ok"))
    answers = {
        name: await posted(service, path, BODIES[path] | {name: value})
        for name, value in INTERNAL.items()
    }
    assert {name: a.status_code for name, a in answers.items() if a.status_code != 400} == {}
    assert [name for name, answer in answers.items() if name not in answer.text] == []
    assert service.calls == []


@pytest.mark.parametrize("name", INTERNAL)
@pytest.mark.parametrize("way", ["tensor", "parameter"])
def test_no_kserve_request_takes_an_internal_field(name: str, way: str) -> None:
    if way == "tensor":
        given = json.dumps({name: INTERNAL[name]})
        request = infer_request(text_input="a", sampling_parameters=given)
    else:
        request = infer_request(text_input="a")
        request.parameters[name].string_param = str(INTERNAL[name])
    with pytest.raises(InvalidArgumentError, match=name):
        decode_request(request)


def test_the_native_messages_have_no_internal_field() -> None:
    messages = inference_pb2.DESCRIPTOR.message_types_by_name.values()
    names = {field.name for message in messages for field in message.fields}
    # The client's id for logs and traces; engines get one that is made unique.
    assert names & INTERNAL.keys() == {"request_id"}
