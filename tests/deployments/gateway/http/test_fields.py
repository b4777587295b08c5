"""What each field of a request means, and which are refused."""

import json
from typing import Any

import pytest

from deployments.gateway.openai.fields import IGNORED_FIELDS, REFUSED_FIELDS
from deployments.types import Sampling
from infra.errors import InvalidArgumentError
from tests.builders.fake_service import FakeService, text_deltas
from tests.deployments.gateway.http.asking import (
    CHAT,
    COMPLETIONS,
    SENDERS,
    complete,
    post,
    refusal_of,
    sampling_of,
)

pytestmark = pytest.mark.asyncio

both = pytest.mark.parametrize("api", ["chat", "completions"])


async def test_a_bare_chat_may_fill_the_context() -> None:
    assert await sampling_of("chat") == Sampling()


async def test_a_bare_completion_has_sixteen_tokens() -> None:
    assert await sampling_of("completions") == Sampling(max_tokens=16)


@both
async def test_every_sampling_field_reaches_the_service(api: str) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "repetition_penalty": 1.1,
        "seed": -(2**63),
        "min_tokens": 2,
        "max_tokens": 7,
        "n": 3,
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    lists: dict[str, list[Any]] = {
        "stop_token_ids": [1, 2],
        "allowed_token_ids": [3],
        "bad_words": ["x"],
    }
    asked = {
        **fields,
        **lists,
        "stop": ["a", "b"],
        "logit_bias": {"50": -100, "7": 0.5},
        "include_stop_str_in_output": True,
    }
    tuples: dict[str, Any] = {name: tuple(value) for name, value in lists.items()}
    assert await sampling_of(api, **asked) == Sampling(
        **fields,
        **tuples,
        stop=("a", "b"),
        logit_bias={50: -100.0, 7: 0.5},
        include_stop=True,
    )


@both
async def test_a_null_means_what_leaving_the_field_out_means(api: str) -> None:
    names = ["n", "stop", "seed", "logit_bias", "stream", "stream_options", "logprobs"]
    names += ["response_format", "max_tokens", "tools", "echo", "user", "cache_salt"]
    assert await sampling_of(api, **dict.fromkeys(names)) == await sampling_of(api)


@both
async def test_a_stop_may_be_one_string(api: str) -> None:
    assert (await sampling_of(api, stop="\n")).stop == ("\n",)


@pytest.mark.parametrize(
    ("fields", "num_logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": False}, None),
        ({"top_logprobs": 0}, None),
    ],
)
async def test_chat_counts_alternatives_by_top_logprobs(
    fields: dict[str, Any], num_logprobs: int | None
) -> None:
    assert (await sampling_of("chat", **fields)).logprobs == num_logprobs


async def test_top_logprobs_need_logprobs() -> None:
    param, _ = await refusal_of("chat", top_logprobs=2)
    assert param == "top_logprobs"


async def test_chat_takes_either_name_of_max_tokens_but_not_two_values() -> None:
    assert (await sampling_of("chat", max_tokens=3)).max_tokens == 3
    assert (await sampling_of("chat", max_completion_tokens=4)).max_tokens == 4
    param, message = await refusal_of("chat", max_tokens=3, max_completion_tokens=4)
    assert param == "max_tokens"
    assert "max_completion_tokens" in message


@both
@pytest.mark.parametrize("name", sorted(IGNORED_FIELDS))
async def test_bookkeeping_fields_change_nothing(api: str, name: str) -> None:
    assert await sampling_of(api, **{name: "anything"}) == await sampling_of(api)


@both
@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
async def test_a_field_that_is_not_supported_is_refused_by_name(api: str, name: str) -> None:
    param, message = await refusal_of(api, **{name: {"any": 1}})
    assert param == name
    assert name in message


@both
@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
async def test_it_passes_with_a_value_that_asks_for_nothing(api: str, name: str) -> None:
    for value in (None, *REFUSED_FIELDS[name].neutral_values):
        assert await sampling_of(api, **{name: value}) == await sampling_of(api)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("stops", "stop")],
)
async def test_an_unknown_field_is_refused_with_the_nearest_valid_name(
    name: str, nearest: str
) -> None:
    param, message = await refusal_of("chat", **{name: 1})
    assert param == name
    assert f"did you mean {nearest}?" in message


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.5"),
        ("n", 1.5),
        ("n", True),
        ("n", 2**40),
        ("seed", 2**63),
        ("max_tokens", "7"),
        ("stop", 7),
        ("stop_token_ids", "7"),
        ("logit_bias", [1]),
        ("stream", "yes"),
        ("model", 7),
    ],
)
async def test_a_value_of_the_wrong_type_is_refused_by_name(
    api: str, name: str, value: Any
) -> None:
    param, _ = await refusal_of(api, **{name: value})
    assert param == name


async def test_a_wrong_value_is_named_where_it_stands() -> None:
    assert (await refusal_of("chat", stop=["a", 1]))[0] == "stop[1]"
    assert (await refusal_of("chat", logit_bias={"x": 1}))[0] == "logit_bias"
    param, message = await refusal_of("chat", messages=[{"role": "user"}])
    assert (param, message) == (
        "messages[0].content",
        "messages[0].content is missing",
    )


async def test_best_of_may_only_say_what_n_says() -> None:
    assert (await sampling_of("completions", best_of=1)).n == 1
    assert (await sampling_of("completions", best_of=3, n=3)).n == 3
    assert (await refusal_of("completions", best_of=5, n=2))[0] == "best_of"


async def test_stream_options_need_a_stream() -> None:
    param, _ = await refusal_of("chat", stream_options={"include_usage": True})
    assert param == "stream_options"


@both
async def test_token_ids_come_where_they_are_asked_for(api: str) -> None:
    service = FakeService(text_deltas("o", "k"))
    with_ids = await SENDERS[api](service, return_token_ids=True)
    without = await SENDERS[api](service)
    assert with_ids.json()["choices"][0]["token_ids"] == [111, 107]
    assert "token_ids" not in without.json()["choices"][0]


@both
async def test_the_service_s_names_of_fields_become_this_api_s(api: str) -> None:
    refusal = InvalidArgumentError("too much", param="structured_output")
    response = await SENDERS[api](FakeService(refusal=refusal))
    assert response.json()["error"]["param"] == "response_format"


async def test_a_fields_order_and_the_harmless_ones_beside_it_do_not_matter() -> None:
    service = FakeService(text_deltas("ok"))
    body = json.dumps({"user": "u", "prompt": "é\n", "metadata": {"a": 1}, "top_k": 3})
    fields = json.loads(body)
    await complete(service, **fields)
    assert (service.last_call.prompt, service.last_call.sampling.top_k) == ("é\n", 3)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_the_key_of_a_prompt_s_cache_names_the_session_unless_a_header_does(
    path: str,
) -> None:
    least = (
        {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    )
    headers = {"x-session-id": "from header"}
    cases: list[tuple[dict[str, Any], dict[str, str], str | None]] = [
        ({}, {}, None),
        ({"user": "u"}, {}, None),
        ({"prompt_cache_key": "k"}, {}, "k"),
        ({"prompt_cache_key": None}, {}, None),
        ({"prompt_cache_key": ["k"]}, {}, None),
        ({"prompt_cache_key": "k"}, headers, "from header"),
        ({}, headers, "from header"),
    ]
    for fields, sent, session in cases:
        service = FakeService(text_deltas("ok"))
        response = await post(service, path, least | fields, headers=sent)
        assert response.status_code == 200
        assert service.last_call.options.session == session
