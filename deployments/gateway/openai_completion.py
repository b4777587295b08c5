"""`/v1/completions`: what only prompts have."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from deployments.gateway.openai_fields import REFUSED_FIELDS, Refusal
from deployments.gateway.openai_logprobs import CompletionLogprobs, to_completion_logprobs
from deployments.gateway.openai_request import Count, GenerationRequest, to_sampling
from deployments.gateway.openai_response import Choice, choice_fields
from deployments.gateway.service import Generation, InferenceService, Prompt
from deployments.types import CallOptions, Delta
from infra.errors import InvalidArgumentError

# OpenAI's default of this interface.
DEFAULT_MAX_TOKENS = 16

COMPLETION_REFUSED_FIELDS: Mapping[str, Refusal] = {
    **REFUSED_FIELDS,
    "add_special_tokens": Refusal("send the prompt as token ids instead", (True,)),
}


class CompletionRequest(
    GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A prompt to be continued; `best_of` may only say what `n` says."""

    prompt: str | list[Count | str | list[Count]]
    logprobs: Count | None = None
    best_of: Count | None = None

    async def start(self, service: InferenceService, options: CallOptions) -> Generation:
        """Submit it. Raises what `InferenceService.generate` raises."""
        if self.best_of not in (None, self.num_outputs):
            raise InvalidArgumentError("leave out best_of: use n alone", param="best_of")
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return await service.generate(
            self.model or "",
            _to_prompt(self.prompt),
            to_sampling(self, max_tokens=max_tokens, num_logprobs=self.logprobs),
            msgspec.structs.replace(options, stream=bool(self.stream)),
        )

    def shape(self) -> "CompletionShape":
        """The shape of its answer."""
        return CompletionShape(has_token_ids=bool(self.return_token_ids))


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


def _to_prompt(given: str | list[Any]) -> Prompt:
    """The only prompt: text or token ids, possibly as a list of one."""
    if isinstance(given, str):
        return given
    if all(type(item) is int for item in given):
        return given
    if len(given) > 1:
        raise InvalidArgumentError(
            "prompt has several prompts; send one request for each", param="prompt"
        )
    only: Prompt = given[0]
    return only
