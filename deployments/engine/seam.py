"""Going on with an output that another engine began.

To vLLM's core, prompt and delivered tokens are one prompt, and the limits are what is left
of them. To its output processor the request is still the original one, which has come so
far: its detokenizer begins after the prompt and reads the delivered tokens again. So it
goes on in the middle of a character or of a stop string, and holds back what was held back.

    core        [ prompt | delivered            ] -> new tokens
    processor   [ prompt ] delivered, read again  -> text behind what was delivered
"""

from copy import copy
from typing import Any

import msgspec
from vllm import SamplingParams
from vllm.logprobs import Logprob
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import OutputProcessor, RequestState

from deployments.engine.sampling import to_sampling_params
from deployments.types import Call
from infra.errors import EngineError, InvalidArgumentError

_KEY = "coterie_seam"
# As many as vLLM reads where a token is only a part of a character.
_NUM_CONTEXT_TOKENS = 4


class Seam(msgspec.Struct, frozen=True):
    """How the request that the core gets differs from the original one."""

    num_tokens: int
    num_chars: int
    min_tokens: int


def params_of(call: Call, model_defaults: dict[str, Any]) -> SamplingParams:
    """vLLM's parameters for what is left of the call.

    Raises InvalidArgumentError where the model's own defaults keep an output from being
    continued, ValueError (vLLM's) for values out of range.
    """
    sampling, delivered = call.sampling, call.delivered
    if delivered is None:
        return to_sampling_params(sampling, model_defaults)
    assert sampling.n == 1
    assert sampling.max_tokens is not None
    num_tokens = len(delivered.token_ids)
    left = msgspec.structs.replace(
        sampling,
        max_tokens=sampling.max_tokens - num_tokens,
        min_tokens=max(0, sampling.min_tokens - num_tokens),
    )
    params = to_sampling_params(left, model_defaults)
    if params.presence_penalty or params.frequency_penalty:
        raise InvalidArgumentError(
            "an output with penalties on what it has said cannot be continued"
        )
    seam = Seam(num_tokens, delivered.num_chars, sampling.min_tokens)
    params.extra_args = {_KEY: msgspec.to_builtins(seam)}
    return params


class SeamProcessor(OutputProcessor):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's output processor, for requests that go on as well."""

    @classmethod
    def install(cls, llm: AsyncLLM) -> None:
        """Let the engine use one; call it before its first request, outside its loop."""
        old = llm.output_processor
        assert llm.output_handler is None, "it keeps the processor that it began with"
        llm.output_processor = cls(
            old.tokenizer,
            log_stats=old.log_stats,
            stream_interval=old.stream_interval,
            tracing_enabled=old.tracing_enabled,
            admission_stats=old.admission_stats,
        )

    def add_request(self, request: EngineCoreRequest, *arguments: Any, **keywords: Any) -> None:
        """See vLLM's. Raises EngineError where the delivered text is another."""
        params = request.sampling_params
        found = (params.extra_args or {}).get(_KEY) if params is not None else None
        if found is None:
            super().add_request(request, *arguments, **keywords)
            return
        seam = msgspec.convert(found, Seam)
        original = _original_of(request, seam)
        super().add_request(original, *arguments, **keywords)
        try:
            state = self.request_states[request.request_id]
            _read_again(state, request.prompt_token_ids[-seam.num_tokens :], seam.num_chars)
        except BaseException:
            self.abort_requests([request.request_id], internal=True)
            raise


def _original_of(request: EngineCoreRequest, seam: Seam) -> EngineCoreRequest:
    """The request as its first engine had it, as far as outputs hang on it."""
    original = copy(request)
    original.prompt_token_ids = request.prompt_token_ids[: -seam.num_tokens]
    original.sampling_params = copy(request.sampling_params)
    original.sampling_params.min_tokens = seam.min_tokens
    return original


def _read_again(state: RequestState, token_ids: list[int], num_chars: int) -> None:
    """Bring the state to where it was after these tokens had been handed out."""
    num_given = 0
    for token_id in token_ids:
        # One at a time: then a stop string is looked for as it was.
        stop = state.detokenizer.update([token_id], stop_terminated=False)
        num_given += len(state.detokenizer.get_next_output_text(finished=False, delta=True))
        if stop is not None:
            raise EngineError("the delivered tokens have a stop string, yet went on")
    if num_given != num_chars:
        raise EngineError(
            f"{len(token_ids)} delivered tokens came with {num_chars} characters, and here "
            f"they make {num_given}: do all engine replicas run the same model?"
        )
    state.sent_tokens_offset = len(token_ids)
    if state.logprobs_processor.logprobs is not None:
        # Only the ids count: as context of a token that is part of a character.
        known = [{token_id: Logprob(0.0)} for token_id in token_ids[-_NUM_CONTEXT_TOKENS:]]
        state.logprobs_processor.logprobs.extend(known)
