"""The life of one KServe request, whatever the door: its responses, in order.

A response has one entry for each of the `n` outputs in every tensor; those that
have nothing new in a streamed response have "" and 0.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from deployments.gateway.kserve.request import InferRequest
from deployments.gateway.service import Generation, InferenceService
from deployments.gateway.whole import whole_outputs
from deployments.types import CallOptions, Delta, TokenLogprob, TokenLogprobs
from infra.errors import CoterieError

Values = Sequence[str] | Sequence[float]

# The service's fields, where KServe's clients know them under other names.
PARAM_NAMES: Mapping[str, str] = {
    "include_stop": "include_stop_str_in_output",
    "model": "model_name",
    "prompt": "text_input",
    "request_id": "id",
    "structured_output": "structured_outputs",
}


class InferResponse(NamedTuple):
    """`id` is the request's; `name_to_values` has the outputs that it asked for."""

    id: str
    model: str
    name_to_values: dict[str, Values]
    is_final: bool


async def answer(
    service: InferenceService, request: InferRequest, options: CallOptions
) -> AsyncGenerator[InferResponse, None]:
    """One response, or one for each delta where it streams; leaving early aborts it.

    The request's own id, time-out and priority count before those of `options`.

    Raises what `InferenceService.generate` and `Generation.deltas` raise, in the
    names of KServe's fields.
    """
    try:
        async with aclosing(_answer(service, request, options)) as responses:
            async for response in responses:
                yield response
    except CoterieError as error:
        raise error.renamed(PARAM_NAMES) from error


async def _answer(
    service: InferenceService, request: InferRequest, options: CallOptions
) -> AsyncGenerator[InferResponse, None]:
    generation = await service.generate(
        request.model,
        request.text,
        request.sampling,
        msgspec.structs.replace(
            options,
            request_id=request.id or options.request_id,
            timeout_s=_shorter(request.timeout_s, options.timeout_s),
            priority=request.priority or options.priority,
            stream=request.stream,
        ),
    )
    reply = InferReply(request, generation)
    if not request.stream:
        yield reply.response(await whole_outputs(generation))
        return
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            yield reply.response([delta])


class InferReply:
    """Makes the responses of one request."""

    def __init__(self, request: InferRequest, generation: Generation) -> None:
        self._request = request
        self._model = generation.model
        self._num_prompt_tokens = generation.num_prompt_tokens
        num_outputs = request.sampling.n
        self._num_unfinished = num_outputs
        self._prompt = request.text if request.has_prompt_in_output else ""
        # [num_outputs]
        self._finish_reasons = ["None"] * num_outputs
        self._cumulative_logprobs = [0.0] * num_outputs

    def response(self, deltas: Sequence[Delta]) -> InferResponse:
        """The next response; `deltas` are of different outputs."""
        for delta in deltas:
            self._note(delta)
        index_to_delta = {delta.index: delta for delta in deltas}
        num_outputs = len(self._finish_reasons)
        pieces = [index_to_delta.get(i, Delta(i, "", [])) for i in range(num_outputs)]
        return InferResponse(
            id=self._request.id,
            model=self._model,
            name_to_values={n: self._values(n, pieces) for n in self._request.outputs},
            is_final=self._num_unfinished == 0,
        )

    def _note(self, delta: Delta) -> None:
        if delta.finish_reason is not None:
            self._num_unfinished -= 1
            self._finish_reasons[delta.index] = delta.finish_reason
        for entry in delta.logprobs or ():
            self._cumulative_logprobs[delta.index] += entry.chosen.logprob

    def _values(self, name: str, pieces: Sequence[Delta]) -> Values:
        match name:
            case "text_output":
                return [self._prompt + piece.text for piece in pieces]
            case "finish_reason":
                return [*self._finish_reasons]
            case "cumulative_logprob":
                return [*self._cumulative_logprobs]
            case "logprobs":
                return [_logprobs_json(piece.logprobs) for piece in pieces]
            case "num_input_tokens":
                return [self._num_prompt_tokens]
            case _:
                assert name == "num_output_tokens"
                return [len(piece.token_ids) for piece in pieces]


def _shorter(first_s: float | None, second_s: float | None) -> float | None:
    given = [s for s in (first_s, second_s) if s is not None]
    return min(given, default=None)


def _logprobs_json(entries: Sequence[TokenLogprobs] | None) -> str:
    """One object for each token: id to what is known of it, the chosen one first."""
    found = [_by_token_id([e.chosen, *e.top]) for e in entries or ()]
    return msgspec.json.encode(found).decode()


def _by_token_id(entries: Sequence[TokenLogprob]) -> dict[str, dict[str, object]]:
    return {
        str(e.token_id): {"logprob": e.logprob, "rank": e.rank, "decoded_token": e.text}
        for e in entries
    }
