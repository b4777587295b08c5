"""What the client writes into the messages of `coterie.v1`."""

from typing import Any, get_type_hints

import pytest

from coterie import Client, InvalidArgumentError, Message, Sampling, SamplingKeywords
from coterie.requests import (
    chat_request,
    detokenize_request,
    generate_request,
    tokenize_request,
    turns_of,
)
from coterie.sampling import sampling_with
from coterie.v1 import inference_pb2 as pb


def _sent(**keywords: Any) -> pb.GenerateRequest:
    return generate_request("p", "m", "r", Sampling(**keywords))


def test_nothing_is_sent_for_what_is_not_given() -> None:
    assert _sent() == pb.GenerateRequest(
        model="m",
        request_id="r",
        text="p",
        sampling=pb.SamplingParameters(),
        output=pb.OutputOptions(),
    )


def test_every_parameter_has_its_place() -> None:
    request = _sent(
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        min_p=0.25,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=2.0,
        seed=-7,
        stop=["a", "b"],
        stop_token_ids=[5],
        ignore_eos=True,
        max_tokens=9,
        min_tokens=1,
        n=2,
        logprobs=0,
        logit_bias={4: -100.0},
        allowed_token_ids=[4, 5],
        bad_words=["c"],
        regex="a*",
        skip_special_tokens=False,
        include_stop=True,
    )
    assert request.sampling == pb.SamplingParameters(
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        min_p=0.25,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=2.0,
        seed=-7,
        stop=["a", "b"],
        stop_token_ids=[5],
        ignore_eos=True,
        max_tokens=9,
        min_tokens=1,
        n=2,
        logprobs=0,
        logit_bias={4: -100.0},
        allowed_token_ids=[4, 5],
        bad_words=["c"],
        structured_output=pb.StructuredOutput(regex="a*"),
    )
    assert request.output == pb.OutputOptions(skip_special_tokens=False, include_stop=True)


def test_a_temperature_of_zero_is_sent_and_not_taken_for_absent() -> None:
    assert _sent(temperature=0).sampling.HasField("temperature")
    assert not _sent().sampling.HasField("temperature")


def test_a_single_stop_string_is_one_string() -> None:
    assert list(_sent(stop="END").sampling.stop) == ["END"]


@pytest.mark.parametrize(
    ("keywords", "form"),
    [
        ({"json_schema": {"type": "object"}}, {"json_schema": '{"type": "object"}'}),
        ({"json_schema": '{"type":"array"}'}, {"json_schema": '{"type":"array"}'}),
        ({"grammar": "root ::= x"}, {"grammar": "root ::= x"}),
        ({"json_object": True}, {"json_object": True}),
        ({"json_schema": {}}, {"json_schema": "{}"}),
        ({"regex": ""}, {"regex": ""}),
        ({"choice": ["a"]}, {"choice": pb.StructuredOutput.Choice(options=["a"])}),
    ],
)
def test_each_form_of_structured_output_is_sent(
    keywords: dict[str, Any], form: dict[str, Any]
) -> None:
    assert _sent(**keywords).sampling.structured_output == pb.StructuredOutput(**form)


def test_two_forms_at_once_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="only one of regex, choice"):
        _sent(regex="a", choice=["a"])


@pytest.mark.parametrize(
    ("keywords", "param"),
    [
        ({"top_k": -1}, "top_k"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_token_ids": [-5]}, "stop_token_ids"),
        ({"logit_bias": {"x": 1.0}}, "logit_bias"),
        ({"json_schema": {"x": object()}}, "json_schema"),
        ({"skip_special_tokens": "x"}, "skip_special_tokens"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_by_name(
    keywords: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        _sent(**keywords)
    assert refused.value.param == param


def test_a_negative_token_id_in_a_prompt_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="prompt"):
        generate_request([-1], "", "", Sampling())
    with pytest.raises(InvalidArgumentError, match="token_ids"):
        detokenize_request([-1], "", skip_special_tokens=False)


def test_an_empty_prompt_of_token_ids_is_sent_for_the_cluster_to_refuse() -> None:
    assert generate_request([], "", "", Sampling()).WhichOneof("prompt") == "token_ids"


def test_a_conversation_may_be_given_in_several_forms() -> None:
    hello = Message("user", "Hello")
    assert turns_of("Hello") == turns_of(hello) == turns_of([hello]) == (hello,)
    assert turns_of([("user", "Hello")]) == turns_of([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("item", [{"role": "user"}, {"role": "user", "text": "x"}, ("user",)])
def test_a_message_that_is_none_is_refused(item: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="messages"):
        turns_of([item])


def test_a_text_in_a_list_is_not_taken_apart_into_role_and_content() -> None:
    with pytest.raises(InvalidArgumentError, match="'hi' does not say whose it is"):
        turns_of(["hi"])  # type: ignore[list-item]


def test_only_the_last_message_may_be_unfinished() -> None:
    messages = [Message("assistant", "x", is_unfinished=True), Message("user", "y")]
    with pytest.raises(InvalidArgumentError, match="only the last message"):
        chat_request(messages, "", "", Sampling())


def test_tokenize_tells_text_from_conversation() -> None:
    text = tokenize_request("x", "m", with_special_tokens=False)
    assert text == pb.TokenizeRequest(model="m", text="x", without_special_tokens=True)
    chat = tokenize_request([("user", "x")], "m", with_special_tokens=True)
    assert chat == pb.TokenizeRequest(
        model="m", messages=[pb.Message(role="user", content="x")]
    )


def test_the_keywords_are_the_fields_of_sampling() -> None:
    assert get_type_hints(SamplingKeywords) == get_type_hints(Sampling)


def test_every_field_of_the_wire_can_be_given() -> None:
    wire = {field.name for field in pb.SamplingParameters.DESCRIPTOR.fields}
    wire |= {field.name for field in pb.StructuredOutput.DESCRIPTOR.fields}
    wire |= {field.name for field in pb.OutputOptions.DESCRIPTOR.fields}
    assert wire - {"structured_output"} == set(get_type_hints(Sampling))


def test_keywords_win_over_the_sampling_value() -> None:
    base = Sampling(temperature=0.5, seed=1)
    assert sampling_with(base, seed=2) == Sampling(temperature=0.5, seed=2)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("timeout", "timeout_s")],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_one(wrong: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"{wrong!r}; did you mean {nearest!r}"):
        Client().generate("p", **{wrong: 1})  # type: ignore[arg-type]
