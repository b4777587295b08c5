"""What the gateway does, whatever the door: both doors translate to this."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from deployments.gateway.resume import Resume
from deployments.types import (
    CallOptions,
    ChatMessage,
    Conversation,
    Delta,
    ModelCard,
    Pooling,
    RequestId,
    Sampling,
)

Prompt = str | Sequence[int]


class Generation(Protocol):
    """One admitted request. Iterate it once; leaving early aborts it.

    `deltas` must be closed (`contextlib.aclosing`) or run to its end; either
    way the engine's blocks are free afterwards. It raises `EngineError` where
    the engine fails, `DeadlineError` where `timeout_s` passes.
    """

    request_id: RequestId
    model: str
    num_prompt_tokens: int

    @property
    def queue_s(self) -> float:
        """Time that it waited to be admitted; 0 until it is."""
        ...

    @property
    def has_begun(self) -> bool:
        """An engine has had it, whatever came of it."""
        ...

    @property
    def resumes(self) -> Sequence[Resume]:
        """What came of each loss of an engine replica, so far."""
        ...

    def deltas(self) -> AsyncGenerator[Delta, None]:
        """Pieces of the outputs as the engine makes them; see `Delta`, and
        `deployments.gateway.whole` for those who want them whole."""
        ...


class InferenceService(Protocol):
    """Everything a door can ask for.

    All methods raise `RequestError` for the client's mistakes and
    `CapacityError` where no replica has room; none of them blocks the loop.
    """

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        options: CallOptions,
    ) -> Generation:
        """Check, tokenize, route and submit; the model may be "" if there is one."""
        ...

    async def chat(
        self,
        model: str,
        conversation: Conversation,
        sampling: Sampling,
        options: CallOptions,
    ) -> Generation:
        """The same for a conversation, through the model's chat template.

        Raises UnknownMethodError where there are tools and the template has none.
        """
        ...

    async def embed(
        self,
        model: str,
        prompts: Sequence[Prompt],
        pooling: Pooling,
        options: CallOptions,
    ) -> Generation:
        """Check, tokenize and route prompts whose embeddings are wanted.

        The generation's deltas are `Embedding`s, one for each prompt in their order. Raises
        UnknownMethodError where the model generates text, as `generate` and `chat` do
        where it embeds.
        """
        ...

    async def tokenize(
        self, model: str, text: str, *, add_special_tokens: bool = True
    ) -> list[int]:
        """Token ids exactly as `generate` would make them."""
        ...

    async def tokenize_chat(self, model: str, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids exactly as `chat` would make them."""
        ...

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """Text of token ids; raises InvalidArgumentError for ids out of range."""
        ...

    def models(self) -> list[ModelCard]:
        """Models and adapters, by name."""
        ...

    def model(self, name: str) -> ModelCard:
        """One of them; "" for the only one. Raises UnknownModelError."""
        ...
