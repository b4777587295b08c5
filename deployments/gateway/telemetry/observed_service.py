"""An `InferenceService` around another one: it lets observers watch each request.

What is measured and traced stands here and in the observers alone; the service
within knows nothing of it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext

from deployments.gateway.resume import Resume
from deployments.gateway.service import Generation, InferenceService, Prompt
from deployments.gateway.telemetry.observation import (
    UNKNOWN_MODEL,
    Observation,
    Observer,
    Operation,
    Outcome,
)
from deployments.types import (
    CallOptions,
    ChatMessage,
    Conversation,
    Delta,
    ModelCard,
    Pooling,
    Sampling,
)
from infra.errors import (
    CapacityError,
    CoterieError,
    DeadlineError,
    RequestError,
    UnknownModelError,
)

Around = Callable[[Observation], AbstractContextManager[None]]
"""What surrounds the checking of a request: a traced one's current span."""


def nothing_around(_: Observation) -> AbstractContextManager[None]:
    """For requests that are not traced."""
    return nullcontext()


class ObservedService:
    """See the module. Observers hear of an end in the order given."""

    def __init__(
        self,
        service: InferenceService,
        observers: Sequence[Observer],
        *,
        around: Around = nothing_around,
        clock_s: Callable[[], float] = time.perf_counter,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._observers = tuple(observers)
        self._around = around
        self._clock_s = clock_s
        self._now_s = now_s

    async def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, options: CallOptions
    ) -> Generation:
        """See `InferenceService.generate`."""
        return await self._observed(
            self._start("text_completion", model, sampling, options),
            lambda o: self._service.generate(model, prompt, sampling, o),
        )

    async def chat(
        self,
        model: str,
        conversation: Conversation,
        sampling: Sampling,
        options: CallOptions,
    ) -> Generation:
        """See `InferenceService.chat`."""
        return await self._observed(
            self._start("chat", model, sampling, options),
            lambda o: self._service.chat(model, conversation, sampling, o),
        )

    async def embed(
        self, model: str, prompts: Sequence[Prompt], pooling: Pooling, options: CallOptions
    ) -> Generation:
        """See `InferenceService.embed`."""
        return await self._observed(
            self._start("embeddings", model, Sampling(n=len(prompts)), options),
            lambda o: self._service.embed(model, prompts, pooling, o),
        )

    async def tokenize(
        self, model: str, text: str, *, add_special_tokens: bool = True
    ) -> list[int]:
        """See `InferenceService.tokenize`."""
        return await self._service.tokenize(model, text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, model: str, messages: Sequence[ChatMessage]) -> list[int]:
        """See `InferenceService.tokenize_chat`."""
        return await self._service.tokenize_chat(model, messages)

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """See `InferenceService.detokenize`."""
        return await self._service.detokenize(
            model, token_ids, skip_special_tokens=skip_special_tokens
        )

    def models(self) -> list[ModelCard]:
        """See `InferenceService.models`."""
        return self._service.models()

    def model(self, name: str) -> ModelCard:
        """See `InferenceService.model`."""
        return self._service.model(name)

    def _start(
        self, operation: Operation, model: str, sampling: Sampling, options: CallOptions
    ) -> "_Watch":
        observation = Observation(
            operation, model, sampling, options, self._clock_s(), self._now_s()
        )
        return _Watch(observation, self._observers, self._clock_s)

    async def _observed(
        self, watch: "_Watch", start: Callable[[CallOptions], Awaitable[Generation]]
    ) -> Generation:
        watch.start()
        try:
            with self._around(watch.observation):
                generation = await start(watch.observation.options)
        except BaseException as error:
            watch.observation.model = self._known_name(watch.observation.model)
            watch.end_by(error)
            raise
        watch.check(generation)
        return ObservedGeneration(generation, watch)

    def _known_name(self, name: str) -> str:
        try:
            return self._service.model(name).name
        except UnknownModelError:
            return UNKNOWN_MODEL


class ObservedGeneration:
    """See `Generation`. One that is never iterated counts as aborted."""

    def __init__(self, generation: Generation, watch: "_Watch") -> None:
        self.request_id = generation.request_id
        self.model = generation.model
        self.num_prompt_tokens = generation.num_prompt_tokens
        self.queue_s = 0.0
        self.has_begun = False
        self.resumes: Sequence[Resume] = ()
        self._generation = generation
        self._watch = watch

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `Generation.deltas`."""
        watch = self._watch
        saw, clock_s = watch.observation.saw, watch.clock_s
        try:
            async with aclosing(self._generation.deltas()) as deltas:
                async for delta in deltas:
                    saw(delta, clock_s())
                    yield delta
        except BaseException as error:
            self._note_progress()
            watch.end_by(error)
            raise
        self._note_progress()
        watch.end("finished")

    def _note_progress(self) -> None:
        observation = self._watch.observation
        self.queue_s = observation.queue_s = self._generation.queue_s
        self.has_begun = observation.has_begun = self._generation.has_begun
        self.resumes = observation.resumes = self._generation.resumes

    def __del__(self) -> None:
        self._watch.end_by(GeneratorExit())


class _Watch:
    """Tells the observers of one request; of its end only once."""

    def __init__(
        self,
        observation: Observation,
        observers: Sequence[Observer],
        clock_s: Callable[[], float],
    ) -> None:
        self.observation = observation
        self.clock_s = clock_s
        self._observers = observers

    def start(self) -> None:
        for observer in self._observers:
            observer.on_start(self.observation)

    def check(self, generation: Generation) -> None:
        observation = self.observation
        observation.checked_s = self.clock_s()
        observation.request_id = generation.request_id
        observation.model = generation.model
        observation.num_prompt_tokens = generation.num_prompt_tokens
        for observer in self._observers:
            observer.on_checked(observation)

    def end_by(self, error: BaseException) -> None:
        outcome, kind = _outcome_of(error, self.observation)
        self.end(outcome, kind)

    def end(self, outcome: Outcome, error: str | None = None) -> None:
        observation = self.observation
        if observation.outcome is not None:
            return
        if outcome == "finished" and "abort" in observation.index_to_finish.values():
            outcome = "aborted"
        observation.outcome, observation.error = outcome, error
        observation.ended_s = self.clock_s()
        for observer in self._observers:
            observer.on_end(observation)


def _outcome_of(error: BaseException, observation: Observation) -> tuple[Outcome, str | None]:
    """A door may leave the iteration as soon as it has the last delta."""
    if isinstance(error, GeneratorExit | asyncio.CancelledError):
        return ("finished" if observation.has_all_outputs else "aborted"), None
    kind = error.kind if isinstance(error, CoterieError) else CoterieError.kind
    is_turned_away = isinstance(error, RequestError | CapacityError) or (
        isinstance(error, DeadlineError) and not observation.has_begun
    )
    is_rejected = is_turned_away and observation.first_s is None
    return ("rejected" if is_rejected else "failed"), kind
