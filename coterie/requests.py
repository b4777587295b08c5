"""From Python values to the messages of `coterie.v1`.

Only what cannot be written as a message is refused here, with
`InvalidArgumentError`; ranges are the cluster's to check.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from coterie.errors import InvalidArgumentError
from coterie.sampling import Sampling
from coterie.types import Message
from coterie.v1 import inference_pb2 as pb

Prompt = str | Sequence[int]
Inputs = str | Sequence[Prompt]
MessageLike = Message | Mapping[str, Any] | tuple[str, str]
Messages = str | Message | Sequence[MessageLike]

_SCALARS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "ignore_eos",
    "max_tokens",
    "min_tokens",
    "n",
    "logprobs",
)
_LISTS = ("stop_token_ids", "allowed_token_ids", "bad_words")
_FORMS = ("json_schema", "regex", "grammar", "choice", "json_object")


def generate_request(
    prompt: Prompt, model: str, request_id: str, sampling: Sampling
) -> pb.GenerateRequest:
    """Text is tokenized in the cluster; token ids are taken as they are."""
    request = pb.GenerateRequest(
        model=model,
        sampling=_parameters(sampling),
        request_id=request_id,
        output=_options(sampling),
    )
    with _blaming("prompt"):
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.token_ids.CopyFrom(pb.TokenIds(ids=prompt))
    return request


def chat_request(
    messages: Messages, model: str, request_id: str, sampling: Sampling
) -> pb.ChatRequest:
    """A string is a conversation of one message by the user."""
    turns = turns_of(messages)
    if any(turn.is_unfinished for turn in turns[:-1]):
        raise InvalidArgumentError("only the last message may be unfinished", param="messages")
    return pb.ChatRequest(
        model=model,
        messages=_wire_messages(turns),
        sampling=_parameters(sampling),
        request_id=request_id,
        output=_options(sampling),
        continue_final_message=bool(turns) and turns[-1].is_unfinished,
    )


def embed_request(
    inputs: Inputs, model: str, request_id: str, dimensions: int | None
) -> pb.EmbedRequest:
    """A string is a single input; a sequence has one text, or its token ids, each."""
    request = pb.EmbedRequest(model=model, request_id=request_id)
    with _blaming("inputs"):
        for each in [inputs] if isinstance(inputs, str) else inputs:
            if isinstance(each, str):
                request.inputs.add(text=each)
            else:
                request.inputs.add(token_ids=pb.TokenIds(ids=each))
    with _blaming("dimensions"):
        if dimensions is not None:
            request.dimensions = dimensions
    return request


def tokenize_request(
    prompt: Messages, model: str, *, with_special_tokens: bool
) -> pb.TokenizeRequest:
    """A string is tokenized as a prompt, messages as a conversation."""
    if isinstance(prompt, str):
        return pb.TokenizeRequest(
            model=model, text=prompt, without_special_tokens=not with_special_tokens
        )
    return pb.TokenizeRequest(model=model, messages=_wire_messages(turns_of(prompt)))


def detokenize_request(
    token_ids: Sequence[int], model: str, *, skip_special_tokens: bool
) -> pb.DetokenizeRequest:
    """Token ids as they are."""
    request = pb.DetokenizeRequest(model=model, skip_special_tokens=skip_special_tokens)
    with _blaming("token_ids"):
        request.token_ids.extend(token_ids)
    return request


def turns_of(messages: Messages) -> tuple[Message, ...]:
    """All the forms in which a conversation may be given, as messages."""
    if isinstance(messages, str):
        return (Message("user", messages),)
    if isinstance(messages, Message):
        return (messages,)
    return tuple(_turn(item) for item in messages)


def _turn(item: MessageLike) -> Message:
    if isinstance(item, Message):
        return item
    if isinstance(item, str):
        raise InvalidArgumentError(
            f"messages: {item[:40]!r} does not say whose it is; give a (role, content) pair, "
            "or the text alone, outside of a list",
            param="messages",
        )
    with _blaming("messages"):
        return Message(**item) if isinstance(item, Mapping) else Message(*item)


def _wire_messages(turns: Sequence[Message]) -> list[pb.Message]:
    with _blaming("messages"):
        return [pb.Message(role=turn.role, content=turn.content) for turn in turns]


def _parameters(sampling: Sampling) -> pb.SamplingParameters:
    parameters = pb.SamplingParameters()
    for name in _SCALARS:
        value = getattr(sampling, name)
        if value is not None:
            with _blaming(name):
                setattr(parameters, name, value)
    for name in _LISTS:
        with _blaming(name):
            getattr(parameters, name).extend(getattr(sampling, name))
    with _blaming("stop"):
        stop = sampling.stop
        parameters.stop.extend([stop] if isinstance(stop, str) else stop)
    with _blaming("logit_bias"):
        parameters.logit_bias.update(sampling.logit_bias or {})
    form = _structured_output(sampling)
    if form is not None:
        parameters.structured_output.CopyFrom(form)
    return parameters


def _structured_output(sampling: Sampling) -> pb.StructuredOutput | None:
    # Compared, as an empty schema is one too: it allows any JSON.
    chosen = [name for name in _FORMS if getattr(sampling, name) not in (None, (), False)]
    if not chosen:
        return None
    if len(chosen) > 1:
        raise InvalidArgumentError(
            f"an output takes one form; give only one of {', '.join(chosen)}", param=chosen[1]
        )
    with _blaming(chosen[0]):
        if chosen[0] == "choice":
            options = pb.StructuredOutput.Choice(options=sampling.choice)
            return pb.StructuredOutput(choice=options)
        if chosen[0] == "json_schema" and not isinstance(sampling.json_schema, str):
            return pb.StructuredOutput(json_schema=json.dumps(sampling.json_schema))
        form = pb.StructuredOutput()
        setattr(form, chosen[0], getattr(sampling, chosen[0]))
        return form


def _options(sampling: Sampling) -> pb.OutputOptions:
    with _blaming("skip_special_tokens"):
        return pb.OutputOptions(
            skip_special_tokens=sampling.skip_special_tokens,
            include_stop=sampling.include_stop,
        )


@contextmanager
def _blaming(param: str) -> Iterator[None]:
    """Turn a refusal by protobuf into an error that names the parameter."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{param}: {error}", param=param) from error
