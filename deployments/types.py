"""The nouns that cross borders inside this room.

A *call* is a request whose fields have been checked and whose prompt has
become token ids. The engine answers it with *deltas*: pieces of one output
each. Both are `msgspec` structs because both also travel between gateway and
engine replica (see `wire`).
"""

import sys
from array import array
from collections.abc import Callable
from typing import Any, Literal, NewType

import msgspec

from router.types import ANONYMOUS, Priority, SessionKey, TenantId

RequestId = NewType("RequestId", str)
Task = Literal["generate", "embed"]
FinishReason = Literal["stop", "length", "abort"]
Door = Literal["grpc", "kserve", "openai", "kserve_http"]
"""How a request came in: by `coterie.v1`, by KServe's gRPC service, by OpenAI's
paths or by KServe's."""


class StructuredOutput(msgspec.Struct, frozen=True):
    """The form that an output must take; exactly one field is set."""

    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: tuple[str, ...] | None = None
    json_object: bool = False


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen; None means the model's own default.

    Ranges and meanings are those of `SamplingParameters` in
    `coterie/v1/inference.proto`.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    logprobs: int | None = None
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    structured_output: StructuredOutput | None = None
    skip_special_tokens: bool = True
    include_stop: bool = False


class CallOptions(msgspec.Struct, frozen=True):
    """What surrounds a request: who asks, under which id, until when.

    `timeout_s` counts from now; None is the gateway's own limit. With
    `stream=False` outputs come in larger pieces, for an answer that is given whole.
    `session` is the client's name for a conversation; its requests prefer one replica.
    `trace` is the W3C
    trace context that came with it (`infra.telemetry.trace_context`), and `on_trace`
    is called, once at most, with the `traceresponse` that the client should get.
    """

    request_id: str | None = None
    timeout_s: float | None = None
    stream: bool = True
    tenant: TenantId = ANONYMOUS
    priority: Priority = "normal"
    door: Door = "grpc"
    trace: dict[str, str] | None = None
    on_trace: Callable[[str], None] | None = None
    session: str | None = None


class Pooling(msgspec.Struct, frozen=True, omit_defaults=True):
    """Asks for an embedding of the prompt in place of outputs.

    `dimensions` shortens the vector, where the model can; None is its own length.
    """

    dimensions: int | None = None


class Delivered(msgspec.Struct, frozen=True):
    """What the client has of an output whose engine replica is gone.

    `num_chars` is the length of the text; it may lie behind that of the tokens, as where
    the last of them is the beginning of a character or of a stop string.
    """

    token_ids: list[int]  # [num_delivered_tokens]
    num_chars: int


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request as the engine takes it; `trace` is set where it is traced.

    One with `pooling` is answered by a single `Embedding`, and `sampling` is not read.
    One with `delivered` goes on behind that; it has one output, and the limits of
    `sampling` count the delivered tokens too.
    """

    request_id: str
    token_ids: list[int]  # [num_prompt_tokens]
    sampling: Sampling
    adapter: str | None = None
    stream: bool = True
    cache_salt: str | None = None
    """Prefixes are shared only between calls of the same salt."""
    session: SessionKey | None = None
    trace: dict[str, str] | None = None
    pooling: Pooling | None = None
    delivered: Delivered | None = None
    rank_prefixes: dict[int, int] = {}
    """Prompt tokens that data-parallel ranks of the replica have cached, where it has
    several: for `deployments.engine.dp_ranks`."""

    @property
    def read_token_ids(self) -> list[int]:
        """All that the engine reads before it makes a token. Shape: [num_read_tokens]."""
        if self.delivered is None:
            return self.token_ids
        return [*self.token_ids, *self.delivered.token_ids]


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural logarithm of a token's probability; rank 1 is the likeliest."""

    token_id: int
    logprob: float
    text: str
    rank: int


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The output token and the likeliest alternatives, likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one output.

    `index` says which of the `n` outputs it continues. `finish_reason` is set
    in an output's last delta; `num_cached_tokens` counts prompt tokens that
    came from the prefix cache.
    """

    index: int
    text: str
    token_ids: list[int]  # [num_new_tokens]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None  # [num_new_tokens]
    num_cached_tokens: int = 0


class Embedding(Delta, frozen=True, kw_only=True):
    """The only delta of a call that asks for an embedding; it has no text and no tokens.

    `vector` is float32, little-endian. Shape: [num_dimensions].
    """

    vector: bytes

    def values(self) -> list[float]:
        """The vector's numbers."""
        numbers = array("f", self.vector)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()


class ModelCard(msgspec.Struct, frozen=True):
    """What clients are told about a model or an adapter."""

    name: str
    reference: str
    max_model_len: int
    vocab_size: int
    base_model: str | None
    has_chat_template: bool
    num_ready_replicas: int
    created_s: int
    has_tool_template: bool = False
    """The chat template tells the model of tools."""
    tool_parser: str | None = None
    """The form in which the model writes tool calls; see `gateway.tool_parser`."""
    task: Task = "generate"
    scales_to_zero: bool = False
    """There may be no engine replica; a request brings one."""

    @property
    def can_answer(self) -> bool:
        """Requests find an engine replica, or bring one."""
        return self.num_ready_replicas > 0 or self.scales_to_zero


class ToolCall(msgspec.Struct, frozen=True):
    """A model's wish that a function be called; `arguments` is the text of a JSON object."""

    call_id: str
    name: str
    arguments: str


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation.

    `tool_calls` are the model's wishes in a turn of its own, and `tool_call_id` says
    which of them a turn of role "tool" answers. `name` tells speakers of one role
    apart, for templates that print it.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chat template makes a prompt of.

    With `continue_final_message` the last turn is the beginning of the answer.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    continue_final_message: bool = False


class Usage(msgspec.Struct, frozen=True):
    """Tokens that one request took; output tokens are summed over its outputs."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
