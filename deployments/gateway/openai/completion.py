"""`/v1/completions`: what only prompts have."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from deployments.gateway.checks import check_num_prompts, check_text_size
from deployments.gateway.openai.fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai.logprobs import CompletionLogprobs, to_completion_logprobs
from deployments.gateway.openai.request import Count, GenerationRequest, to_sampling
from deployments.gateway.openai.response import Choice, Started, choice_fields
from deployments.gateway.openai.several_prompts import SeveralPrompts
from deployments.gateway.service import InferenceService, Prompt
from deployments.settings import GatewaySection
from deployments.types import CallOptions, Delta
from infra.errors import InvalidArgumentError

# OpenAI's default of this interface.
DEFAULT_MAX_TOKENS = 16

COMPLETION_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **REFUSED_FIELDS,
    "tools": Refusal("tools need a conversation", ([],)),
    "tool_choice": Refusal("tools need a conversation", ("none", "auto")),
    "parallel_tool_calls": Refusal("tools need a conversation", (True, False)),
    "add_special_tokens": Refusal("send the prompt as token ids instead", (True,)),
}


class CompletionRequest(
    GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Prompts to be continued; `best_of` may only say what `n` says."""

    prompt: str | list[Count | str | list[Count]]
    logprobs: Count | None = None
    best_of: Count | None = None

    async def start(
        self, service: InferenceService, options: CallOptions, section: GatewaySection
    ) -> Started:
        """Submit it. Raises what `InferenceService.generate` raises."""
        if self.best_of not in (None, self.num_outputs):
            raise InvalidArgumentError("leave out best_of: use n alone", param="best_of")
        prompts = to_prompts(self.prompt)
        check_num_prompts(len(prompts), section.max_prompts)
        check_text_size(sum(len(p) for p in prompts if isinstance(p, str)), "prompt")
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        sampling = to_sampling(self, max_tokens=max_tokens, num_logprobs=self.logprobs)
        options = msgspec.structs.replace(options, stream=bool(self.stream))
        generations = [
            await service.generate(self.model or "", prompt, sampling, options)
            for prompt in prompts
        ]
        shape = CompletionShape(has_token_ids=bool(self.return_token_ids))
        if len(generations) == 1:
            return Started(generations[0], shape)
        several = SeveralPrompts(generations, self.num_outputs)
        return Started(several, shape, num_prompts=len(prompts))


class CompletionChoice(Choice, frozen=True, kw_only=True):
    """One output, or a piece of it."""

    text: str
    logprobs: CompletionLogprobs | None


class CompletionShape:
    """Choices with text; see `Shape`."""

    id_prefix: ClassVar[str] = "cmpl-"
    whole_object: ClassVar[str] = "text_completion"
    chunk_object: ClassVar[str] = "text_completion"

    def __init__(self, *, has_token_ids: bool) -> None:
        self._has_token_ids = has_token_ids
        self._index_to_offset: dict[int, int] = {}

    def whole(self, delta: Delta) -> CompletionChoice:
        """See `Shape.whole`."""
        return self.piece(delta)

    def piece(self, delta: Delta) -> CompletionChoice:
        """See `Shape.piece`."""
        return CompletionChoice(
            text=delta.text,
            logprobs=self._logprobs(delta),
            **choice_fields(delta, has_token_ids=self._has_token_ids),
        )

    def _logprobs(self, delta: Delta) -> CompletionLogprobs | None:
        if not delta.logprobs:
            return None
        start = self._index_to_offset.get(delta.index, 0)
        num_chars = sum(len(entry.chosen.text) for entry in delta.logprobs)
        self._index_to_offset[delta.index] = start + num_chars
        return to_completion_logprobs(delta.logprobs, start)


def to_prompts(given: str | Sequence[int | str | list[int]]) -> list[Prompt]:
    """Each prompt: one text or list of token ids, or a list of those.

    Raises InvalidArgumentError for a list of both token ids and prompts.
    """
    if isinstance(given, str):
        return [given]
    token_ids = [item for item in given if isinstance(item, int)]
    if len(token_ids) == len(given):
        return [token_ids]
    if token_ids:
        raise InvalidArgumentError(
            "prompt is a list of token ids or of prompts, not of both", param="prompt"
        )
    return [item for item in given if not isinstance(item, int)]
