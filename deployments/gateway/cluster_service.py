"""The real `InferenceService`: checks, tokenizes, routes to the cluster's engines."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import msgspec

from deployments.gateway.admission_gate import AdmissionGate, Admitting
from deployments.gateway.checks import (
    MAX_TOKEN_IDS,
    Limits,
    check_count,
    check_request_id,
    check_sampling,
    check_text_size,
    check_token_ids,
    fit_to_context,
)
from deployments.gateway.cluster_generation import ClusterGeneration
from deployments.gateway.conversation_checks import check_conversation
from deployments.gateway.embedding import (
    MAX_AT_A_TIME,
    EmbeddingGeneration,
    check_length,
    check_prompts,
    check_task,
)
from deployments.gateway.served_model import ServedModel
from deployments.gateway.service import Prompt
from deployments.settings import GatewaySection
from deployments.types import (
    Call,
    CallOptions,
    ChatMessage,
    Conversation,
    ModelCard,
    Pooling,
    Sampling,
)
from infra.errors import DeadlineError, NoReplicaError, UnknownModelError
from router.model_queue import Demand
from router.sessions import session_key

T = TypeVar("T")


class ClusterService:
    """What the doors ask for, answered by the models of this cluster."""

    def __init__(
        self, section: GatewaySection, served: Sequence[ServedModel], gate: AdmissionGate
    ) -> None:
        self._section = section
        self._gate = gate
        self._by_name: dict[str, tuple[ServedModel, str | None]] = {}
        for model in served:
            self._by_name[model.section.name] = (model, None)
            for adapter in model.section.adapters:
                self._by_name[adapter] = (model, adapter)

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        options: CallOptions,
    ) -> ClusterGeneration:
        """See `InferenceService.generate`."""
        name, served, _ = self._find(model)
        self._gate.check(served.section.name, options.tenant)
        check_task(served.section, name, is_embedding=False)
        [token_ids], options = await self._in_time(options, _token_ids_of([prompt], served))
        return self._plan(name, token_ids, sampling, options)

    async def chat(
        self,
        model: str,
        conversation: Conversation,
        sampling: Sampling,
        options: CallOptions,
    ) -> ClusterGeneration:
        """See `InferenceService.chat`."""
        name, served, _ = self._find(model)
        self._gate.check(served.section.name, options.tenant)
        check_task(served.section, name, is_embedding=False)
        check_conversation(conversation)
        encoding = served.tokenizer.encode_chat(conversation)
        token_ids, options = await self._in_time(options, encoding)
        return self._plan(name, token_ids, sampling, options)

    async def embed(
        self,
        model: str,
        prompts: Sequence[Prompt],
        pooling: Pooling,
        options: CallOptions,
    ) -> EmbeddingGeneration:
        """See `InferenceService.embed`."""
        name, served, _ = self._find(model)
        self._gate.check(served.section.name, options.tenant)
        check_task(served.section, name, is_embedding=True)
        check_prompts(len(prompts))
        encoding = _token_ids_of(prompts, served)
        token_ids_of_all, options = await self._in_time(options, encoding)
        timeout_s = self._timeout_s(options)
        calls = [
            self._call(name, token_ids, Sampling(), options, pooling)
            for token_ids in token_ids_of_all
        ]
        parts = [
            ClusterGeneration(name, served, call, timeout_s, lambda _: nullcontext())
            for call in calls
        ]
        return EmbeddingGeneration(parts, timeout_s, self._admitting(served, calls, options))

    async def tokenize(
        self, model: str, text: str, *, add_special_tokens: bool = True
    ) -> list[int]:
        """See `InferenceService.tokenize`."""
        _, served, _ = self._find(model)
        check_text_size(len(text), "text")
        encoding = served.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return (await self._in_time(CallOptions(), encoding))[0]

    async def tokenize_chat(self, model: str, messages: Sequence[ChatMessage]) -> list[int]:
        """See `InferenceService.tokenize_chat`."""
        _, served, _ = self._find(model)
        conversation = Conversation(tuple(messages))
        check_conversation(conversation)
        encoding = served.tokenizer.encode_chat(conversation)
        return (await self._in_time(CallOptions(), encoding))[0]

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """See `InferenceService.detokenize`."""
        _, served, _ = self._find(model)
        check_count(len(token_ids), MAX_TOKEN_IDS, "token_ids")
        check_token_ids(token_ids, served.vocab_size, "token_ids")
        decoding = served.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return (await self._in_time(CallOptions(), decoding))[0]

    def models(self) -> list[ModelCard]:
        """See `InferenceService.models`."""
        served = {id(m): m for m, _ in self._by_name.values()}
        cards = [card for model in served.values() for card in model.cards()]
        return sorted(cards, key=lambda card: card.name)

    def model(self, name: str) -> ModelCard:
        """See `InferenceService.model`."""
        found, served, _ = self._find(name)
        return next(card for card in served.cards() if card.name == found)

    def _find(self, name: str) -> tuple[str, ServedModel, str | None]:
        """Full name, model and adapter; "" finds the only model."""
        if not name and len({id(m) for m, _ in self._by_name.values()}) == 1:
            name = next(iter(self._by_name.values()))[0].section.name
        if name not in self._by_name:
            known = ", ".join(sorted(self._by_name))
            wrong = f"there is no model {name!r}" if name else "the request names no model"
            raise UnknownModelError(f"{wrong}; this cluster serves: {known}", param="model")
        return name, *self._by_name[name]

    def _plan(
        self, name: str, token_ids: list[int], sampling: Sampling, options: CallOptions
    ) -> ClusterGeneration:
        _, served, _ = self._find(name)
        call = self._call(name, token_ids, sampling, options)
        admission = self._admitting(served, [call], options)
        return ClusterGeneration(name, served, call, self._timeout_s(options), admission)

    def _admitting(
        self, served: ServedModel, calls: Sequence[Call], options: CallOptions
    ) -> Admitting:
        num_outputs = sum(call.sampling.n for call in calls)
        is_divisible = calls[0].pooling is not None
        demand = Demand(
            model=served.section.name,
            tenant=options.tenant,
            priority=options.priority,
            num_prompt_tokens=sum(len(call.token_ids) for call in calls),
            num_outputs=min(num_outputs, MAX_AT_A_TIME) if is_divisible else num_outputs,
            is_divisible=is_divisible,
            has_room=None if is_divisible else lambda: served.routing.has_room(calls[0]),
        )
        return partial(self._gate.admitted, demand)

    def _call(
        self,
        name: str,
        token_ids: list[int],
        sampling: Sampling,
        options: CallOptions,
        pooling: Pooling | None = None,
    ) -> Call:
        _, served, adapter = self._find(name)
        if not served.max_model_len:
            raise NoReplicaError(
                f"no engine replica of {name} has been ready yet; it may still be loading: "
                "`coterie status` shows how far it is"
            )
        section = self._section
        limits = Limits(
            served.max_model_len, served.vocab_size, section.max_outputs, section.max_logprobs
        )
        if pooling is None:
            check_sampling(sampling, limits)
            sampling = fit_to_context(len(token_ids), sampling, served.max_model_len)
        else:
            check_length(len(token_ids), served.max_model_len)
        if options.request_id:
            check_request_id(options.request_id)
        return Call(
            request_id=options.request_id or uuid.uuid4().hex,
            token_ids=token_ids,
            sampling=sampling,
            adapter=adapter,
            stream=options.stream,
            trace=options.trace,
            pooling=pooling,
            session=session_key(options.tenant, options.session) if options.session else None,
            cache_salt=self._gate.cache_salt(options.tenant),
        )

    async def _in_time(self, options: CallOptions, work: Awaitable[T]) -> tuple[T, CallOptions]:
        """What the tokenizer's work gives, and the options with the time that is left.

        Raises DeadlineError.
        """
        limit_s, since_s = self._timeout_s(options), time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                found = await work
        except TimeoutError as error:
            raise DeadlineError(
                f"not tokenized within {limit_s:g} s: too many long texts wait"
            ) from error
        left_s = max(0.0, limit_s - (time.monotonic() - since_s))
        return found, msgspec.structs.replace(options, timeout_s=left_s)

    def _timeout_s(self, options: CallOptions) -> float:
        limit_s = self._section.request_timeout_s
        return limit_s if options.timeout_s is None else min(options.timeout_s, limit_s)


async def _token_ids_of(prompts: Sequence[Prompt], served: ServedModel) -> list[list[int]]:
    """Of each prompt. Raises InvalidArgumentError for prompts that are too large together,
    or have token ids that are none of the model's."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    ids = [prompt for prompt in prompts if not isinstance(prompt, str)]
    check_text_size(sum(map(len, texts)), "prompt")
    check_count(sum(map(len, ids)), MAX_TOKEN_IDS, "prompt")
    for each in ids:
        check_token_ids(each, served.vocab_size, "prompt")
    encoded = iter(await served.tokenizer.encode_all(texts) if texts else ())
    return [next(encoded) if isinstance(each, str) else list(each) for each in prompts]
