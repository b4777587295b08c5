"""Between protobuf messages of `coterie.v1` and this room's types: pure functions."""

from collections.abc import Sequence

from coterie.v1 import inference_pb2 as pb
from deployments.types import (
    ChatMessage,
    Conversation,
    Delta,
    ModelCard,
    Sampling,
    StructuredOutput,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from infra.errors import InvalidArgumentError

_OPTIONAL = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "max_tokens",
    "min_tokens",
    "n",
    "logprobs",
)
_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_ABORT,
}


def to_sampling(given: pb.SamplingParameters, output: pb.OutputOptions) -> Sampling:
    """Sampling of a request. Raises InvalidArgumentError for a structured_output that asks
    for no form.
    """
    has_skip = output.HasField("skip_special_tokens")
    return Sampling(
        **{name: getattr(given, name) for name in _OPTIONAL if given.HasField(name)},
        stop=tuple(given.stop),
        stop_token_ids=tuple(given.stop_token_ids),
        ignore_eos=given.ignore_eos,
        logit_bias=dict(given.logit_bias),
        allowed_token_ids=tuple(given.allowed_token_ids),
        bad_words=tuple(given.bad_words),
        structured_output=_to_form(given) if given.HasField("structured_output") else None,
        skip_special_tokens=output.skip_special_tokens if has_skip else True,
        include_stop=output.include_stop,
    )


def _to_form(given: pb.SamplingParameters) -> StructuredOutput:
    form = given.structured_output
    match form.WhichOneof("form"):
        case None:
            raise InvalidArgumentError(
                "structured_output has no form; set json_schema, regex, grammar, "
                "choice or json_object",
                param="structured_output",
            )
        case "json_object" if not form.json_object:
            raise InvalidArgumentError(
                "structured_output.json_object is false; set it to true, or leave "
                "structured_output out",
                param="structured_output",
            )
        case "choice":
            return StructuredOutput(choice=tuple(form.choice.options))
        case name:
            return StructuredOutput(**{name: getattr(form, name)})


def to_prompt(request: pb.GenerateRequest | pb.EmbedInput) -> str | list[int]:
    """The prompt as text or token ids. Raises InvalidArgumentError if unset."""
    match request.WhichOneof("prompt"):
        case "text":
            return request.text
        case "token_ids":
            return list(request.token_ids.ids)
        case _:
            raise InvalidArgumentError(
                "the request has no prompt; set text or token_ids", param="prompt"
            )


def to_prompts(request: pb.EmbedRequest) -> list[str | list[int]]:
    """The inputs as prompts. Raises InvalidArgumentError if one is unset."""
    return [to_prompt(each) for each in request.inputs]


def to_messages(given: Sequence[pb.Message]) -> list[ChatMessage]:
    """Turns of the conversation."""
    return [ChatMessage(m.role, m.content) for m in given]


def to_conversation(request: pb.ChatRequest) -> Conversation:
    """The conversation of a chat."""
    return Conversation(
        tuple(to_messages(request.messages)),
        continue_final_message=request.continue_final_message,
    )


def to_chunk(delta: Delta, usage: Usage | None) -> pb.OutputChunk:
    """A chunk, but for the request's id and model, which the caller sets once."""
    chunk = pb.OutputChunk(index=delta.index, text=delta.text, token_ids=delta.token_ids)
    if delta.finish_reason is not None:
        chunk.finish_reason = _FINISH[delta.finish_reason]
        _set_stop_reason(chunk, delta.stop_reason)
    if delta.logprobs:
        chunk.logprobs.extend(_to_logprobs(p) for p in delta.logprobs)
    if usage is not None:
        chunk.usage.CopyFrom(to_usage(usage))
    return chunk


def to_output(delta: Delta) -> pb.Output:
    """A whole output, from its only delta."""
    output = pb.Output(
        index=delta.index,
        text=delta.text,
        token_ids=delta.token_ids,
        finish_reason=_FINISH[delta.finish_reason],
        logprobs=[_to_logprobs(p) for p in delta.logprobs or ()],
    )
    _set_stop_reason(output, delta.stop_reason)
    return output


def to_usage(usage: Usage) -> pb.Usage:
    """Token counts."""
    return pb.Usage(
        num_prompt_tokens=usage.num_prompt_tokens,
        num_output_tokens=usage.num_output_tokens,
        num_cached_tokens=usage.num_cached_tokens,
    )


def to_model(card: ModelCard) -> pb.Model:
    """What a client is told about a model."""
    return pb.Model(
        name=card.name,
        reference=card.reference,
        max_model_len=card.max_model_len,
        vocab_size=card.vocab_size,
        base_model=card.base_model or "",
        has_chat_template=card.has_chat_template,
        num_ready_replicas=card.num_ready_replicas,
        created_s=card.created_s,
        is_embedding=card.task == "embed",
    )


def _set_stop_reason(piece: pb.OutputChunk | pb.Output, reason: int | str | None) -> None:
    if isinstance(reason, str):
        piece.stop_string = reason
    elif reason is not None:
        piece.stop_token_id = reason


def _to_logprobs(found: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        chosen=_to_logprob(found.chosen), top=[_to_logprob(p) for p in found.top]
    )


def _to_logprob(found: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=found.token_id, logprob=found.logprob, text=found.text, rank=found.rank
    )
