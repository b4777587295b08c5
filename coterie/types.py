"""What a client gets back, and the messages it sends: frozen values.

A request asks for `n` *outputs* (one unless told otherwise). A stream brings
them as *chunks*, pieces of one output each; a unary call brings a *response*
with the whole outputs.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `role` is "system", "user", "assistant", or what the model's template
    knows. `is_unfinished`, on the last message alone, makes it the beginning
    of the answer, to be continued.
    """

    role: str
    content: str
    is_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: output tokens over all outputs; cached ones are
    prompt tokens that came from the prefix cache."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability; rank 1 is the likeliest."""

    token_id: int
    logprob: float
    text: str
    rank: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The output token and the likeliest alternatives, likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one output, to be appended to what came before.

    `finish_reason` is set in the last chunk of each output, `usage` in the
    last chunk of the stream. `text` may be empty while bytes of an unfinished
    character, or a possible stop string, are held back. `stop_reason` is the
    stop string or stop token id that ended the output, if one did.
    """

    request_id: str
    model: str
    index: int
    text: str
    token_ids: tuple[int, ...]  # [num_new_tokens]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # [num_new_tokens] if asked for
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One whole output; fields as in `Chunk`."""

    index: int
    text: str
    token_ids: tuple[int, ...]  # [num_output_tokens]
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # [num_output_tokens] if asked for


@dataclass(frozen=True, slots=True)
class Response:
    """All outputs of one request, by index. `usage` is None only where it was
    put together from a stream that was left early."""

    request_id: str
    model: str
    outputs: tuple[Output, ...]  # [n]
    usage: Usage | None

    @property
    def text(self) -> str:
        """Text of the first output, which is the only one unless `n` was given."""
        return self.outputs[0].text if self.outputs else ""


@dataclass(frozen=True, slots=True)
class Model:
    """A served model or adapter. `base_model` is None unless it is an adapter;
    `created_s` is Unix time."""

    name: str
    reference: str
    max_model_len: int
    vocab_size: int
    base_model: str | None
    has_chat_template: bool
    num_ready_replicas: int
    created_s: int
    is_embedding: bool = False
    """Served to embed, not to generate."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each input, in their order; `usage` counts all inputs."""

    request_id: str
    model: str
    vectors: tuple[tuple[float, ...], ...]  # [num_inputs, num_dimensions]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Tokenization:
    """Token ids of a text or conversation, and the most tokens, of prompt and
    output together, that the model takes."""

    token_ids: tuple[int, ...]  # [num_tokens]
    max_model_len: int
