"""A fake `InferenceService`: answers by script, and records what was asked and left.

A script is a sequence of steps, played once for each request:

- a `Delta` is given out;
- an `asyncio.Event` is waited for: an engine that is silent;
- an exception is raised.

Text and token ids are each other's UTF-8: "hi" is [104, 105].
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec

from deployments.gateway.conversation_checks import check_conversation
from deployments.gateway.embedding import EmbeddingGeneration, check_prompts
from deployments.gateway.resume import Resume
from deployments.gateway.service import Prompt
from deployments.types import (
    CallOptions,
    ChatMessage,
    Conversation,
    Delta,
    Embedding,
    ModelCard,
    Pooling,
    RequestId,
    Sampling,
)
from infra.errors import UnknownMethodError, UnknownModelError

Step = Delta | asyncio.Event | Exception


def model_card(name: str = "tiny", **changes: Any) -> ModelCard:
    """A model with one ready replica."""
    card = ModelCard(
        name=name,
        reference="builtin-tiny",
        max_model_len=2048,
        vocab_size=256,
        base_model=None,
        has_chat_template=True,
        num_ready_replicas=1,
        created_s=1_700_000_000,
    )
    return msgspec.structs.replace(card, **changes)


def text_deltas(*texts: str, index: int = 0, num_cached_tokens: int = 0) -> list[Delta]:
    """One delta for each text; the last one finishes the output."""
    last = len(texts) - 1
    return [
        Delta(
            index=index,
            text=text,
            token_ids=list(text.encode()),
            finish_reason="stop" if i == last else None,
            num_cached_tokens=num_cached_tokens,
        )
        for i, text in enumerate(texts)
    ]


def embedding_of(prompt: Prompt, pooling: Pooling) -> Embedding:
    """A prompt's length, and ones: as many numbers as are wanted, or 3."""
    numbers = [float(len(prompt)), *[1.0] * ((pooling.dimensions or 3) - 1)]
    vector = array("f", numbers).tobytes()
    return Embedding(index=0, text="", token_ids=[], finish_reason="stop", vector=vector)


class RecordedCall(NamedTuple):
    """One `generate` or `chat` with its arguments; the other prompt is None."""

    model: str
    prompt: Prompt | None
    conversation: Conversation | None
    sampling: Sampling
    options: CallOptions
    pooling: Pooling | None = None

    @property
    def messages(self) -> tuple[ChatMessage, ...] | None:
        """Turns of the conversation, if it is one."""
        return None if self.conversation is None else self.conversation.messages

    @property
    def request_id(self) -> str | None:
        """The client's own."""
        return self.options.request_id

    @property
    def timeout_s(self) -> float | None:
        """Time that the client gives it."""
        return self.options.timeout_s

    @property
    def stream(self) -> bool:
        """Outputs come in pieces."""
        return self.options.stream


class FakeGeneration:
    """Plays the script; tells the service when it is left early."""

    def __init__(self, service: "FakeService", call: RecordedCall, num_prompt: int) -> None:
        self.request_id = RequestId(call.request_id or f"fake-{len(service.calls)}")
        self.model = call.model or service.cards[0].name
        self.num_prompt_tokens = num_prompt
        self.queue_s = 0.0
        self.has_begun = False
        self.resumes = service.resumes
        self._service = service
        self._call = call

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `Generation.deltas`."""
        self._service.open_ids.append(self.request_id)
        self.has_begun = True
        try:
            async for delta in self._played():
                yield delta
        except (asyncio.CancelledError, GeneratorExit):
            self._service.note_aborted(self.request_id)
            raise
        finally:
            self._service.open_ids.remove(self.request_id)

    async def _played(self) -> AsyncGenerator[Delta, None]:
        for step in self._service.script:
            match step:
                case Delta():
                    yield step
                case asyncio.Event():
                    await step.wait()
                case error:
                    raise error
        if self._call.pooling is not None:
            yield embedding_of(self._call.prompt or "", self._call.pooling)


class FakeService:
    """See the module. `refusal` is raised instead of admitting a request."""

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        cards: Sequence[ModelCard] | None = None,
        refusal: Exception | None = None,
    ) -> None:
        self.script = list(script)
        self.cards = [model_card()] if cards is None else list(cards)
        self.refusal = refusal
        self.resumes: Sequence[Resume] = ()
        self.calls: list[RecordedCall] = []
        self.open_ids: list[RequestId] = []
        self.aborted_ids: list[RequestId] = []
        self._has_aborted = asyncio.Event()

    @property
    def last_call(self) -> RecordedCall:
        """The call that came last."""
        return self.calls[-1]

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        options: CallOptions,
    ) -> FakeGeneration:
        """See `InferenceService.generate`."""
        call = RecordedCall(model, prompt, None, sampling, options)
        return self._admit(call, len(prompt))

    async def chat(
        self,
        model: str,
        conversation: Conversation,
        sampling: Sampling,
        options: CallOptions,
    ) -> FakeGeneration:
        """See `InferenceService.chat`; the sizes are checked as the real one's are."""
        check_conversation(conversation)
        call = RecordedCall(model, None, conversation, sampling, options)
        return self._admit(call, len(await self.tokenize_chat(model, conversation.messages)))

    async def embed(
        self,
        model: str,
        prompts: Sequence[Prompt],
        pooling: Pooling,
        options: CallOptions,
    ) -> EmbeddingGeneration:
        """See `InferenceService.embed`, and `embedding_of`; the script is played before."""
        if self.model(model).task != "embed":
            raise UnknownMethodError(f"{model} is served to generate text", param="model")
        check_prompts(len(prompts))
        generations = []
        for prompt in prompts:
            call = RecordedCall(model, prompt, None, Sampling(), options, pooling)
            generations.append(self._admit(call, len(prompt)))
        return EmbeddingGeneration(generations, 60.0, lambda _: nullcontext())

    async def tokenize(
        self, model: str, text: str, *, add_special_tokens: bool = True
    ) -> list[int]:
        """The text's UTF-8, after a 0 as beginning-of-sequence token."""
        self.model(model)
        return [0] * add_special_tokens + list(text.encode())

    async def tokenize_chat(self, model: str, messages: Sequence[ChatMessage]) -> list[int]:
        """The UTF-8 of the lines "role: content"."""
        text = "".join(f"{m.role}: {m.content}\n" for m in messages)
        return await self.tokenize(model, text, add_special_tokens=False)

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """The text; 0 is a special token."""
        self.model(model)
        return bytes(i for i in token_ids if i or not skip_special_tokens).decode()

    def models(self) -> list[ModelCard]:
        """See `InferenceService.models`."""
        return self.cards

    def model(self, name: str) -> ModelCard:
        """See `InferenceService.model`."""
        if not name and len(self.cards) == 1:
            return self.cards[0]
        for card in self.cards:
            if card.name == name:
                return card
        raise UnknownModelError(f"there is no model {name!r}", param="model")

    def note_aborted(self, request_id: RequestId) -> None:
        """A generation was left early."""
        self.aborted_ids.append(request_id)
        self._has_aborted.set()

    async def wait_aborted(self, timeout_s: float = 5.0) -> None:
        """Wait for the first generation that is left early."""
        await asyncio.wait_for(self._has_aborted.wait(), timeout_s)

    def check_invariants(self) -> None:
        """No generation is open; each call was left early at most once."""
        assert not self.open_ids
        assert len(self.aborted_ids) <= len(self.calls)

    def _admit(self, call: RecordedCall, num_prompt_tokens: int) -> FakeGeneration:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal
        self.model(call.model)
        return FakeGeneration(self, call, num_prompt_tokens)
