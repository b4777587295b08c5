"""From the messages of `coterie.v1` to Python values."""

from collections.abc import Iterable

from coterie.types import (
    Chunk,
    Embeddings,
    FinishReason,
    Model,
    Output,
    Response,
    Tokenization,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from coterie.v1 import inference_pb2 as pb

_FINISH_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_ABORT: "abort",
}


def chunk_of(message: pb.OutputChunk) -> Chunk:
    """One piece of one output."""
    return Chunk(
        request_id=message.request_id,
        model=message.model,
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH_REASONS.get(message.finish_reason),
        stop_reason=_stop_reason(message),
        logprobs=_logprobs(message.logprobs),
        usage=_usage(message.usage) if message.HasField("usage") else None,
    )


def response_of(message: pb.OutputResponse) -> Response:
    """The whole outputs of one request."""
    return Response(
        request_id=message.request_id,
        model=message.model,
        outputs=tuple(_output(output) for output in message.outputs),
        usage=_usage(message.usage) if message.HasField("usage") else None,
    )


def model_of(message: pb.Model) -> Model:
    """A model or an adapter."""
    return Model(
        name=message.name,
        reference=message.reference,
        max_model_len=message.max_model_len,
        vocab_size=message.vocab_size,
        base_model=message.base_model or None,
        has_chat_template=message.has_chat_template,
        num_ready_replicas=message.num_ready_replicas,
        created_s=message.created_s,
        is_embedding=message.is_embedding,
    )


def embeddings_of(message: pb.EmbedResponse) -> Embeddings:
    """The vectors of one request."""
    return Embeddings(
        request_id=message.request_id,
        model=message.model,
        vectors=tuple(tuple(embedding.values) for embedding in message.embeddings),
        usage=_usage(message.usage),
    )


def tokenization_of(message: pb.TokenizeResponse) -> Tokenization:
    """Token ids and the room there is for them."""
    return Tokenization(tuple(message.token_ids), message.max_model_len)


def _output(message: pb.Output) -> Output:
    return Output(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH_REASONS.get(message.finish_reason),
        stop_reason=_stop_reason(message),
        logprobs=_logprobs(message.logprobs),
    )


def _stop_reason(message: pb.OutputChunk | pb.Output) -> str | int | None:
    match message.WhichOneof("stop_reason"):
        case "stop_string":
            return message.stop_string
        case "stop_token_id":
            return message.stop_token_id
    return None


def _logprobs(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(_logprob(each.chosen), tuple(_logprob(top) for top in each.top))
        for each in messages
    )


def _logprob(message: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.logprob, message.text, message.rank)


def _usage(message: pb.Usage) -> Usage:
    return Usage(
        message.num_prompt_tokens, message.num_output_tokens, message.num_cached_tokens
    )
