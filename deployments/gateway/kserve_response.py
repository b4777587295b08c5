"""Deltas to KServe responses, with the tensors that the request asked for.

A response has one entry for each of the `n` outputs in every tensor; those that
have nothing new in a streamed response have "" and 0.
"""

from collections.abc import Sequence

import msgspec

from deployments.gateway.kserve_request import VERSION, InferRequest
from deployments.gateway.kserve_tensors import OUTPUT_TYPES, encode_bytes, encode_numbers
from deployments.gateway.service import Generation
from deployments.kserve import grpc_service_pb2 as pb
from deployments.types import Delta, TokenLogprob, TokenLogprobs

FINAL_PARAM = "triton_final_response"


class InferReply:
    """The responses of one request, in order."""

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

    @property
    def is_finished(self) -> bool:
        """All outputs have had their last delta."""
        return self._num_unfinished == 0

    def response(self, deltas: Sequence[Delta]) -> pb.ModelInferResponse:
        """The next response; `deltas` are of different outputs."""
        for delta in deltas:
            self._note(delta)
        response = pb.ModelInferResponse(
            model_name=self._model, model_version=VERSION, id=self._request.id
        )
        num_outputs = len(self._finish_reasons)
        index_to_delta = {delta.index: delta for delta in deltas}
        pieces = [index_to_delta.get(i, Delta(i, "", [])) for i in range(num_outputs)]
        for name in self._request.outputs:
            self._add(response, name, pieces)
        return response

    def _note(self, delta: Delta) -> None:
        if delta.finish_reason is not None:
            self._num_unfinished -= 1
            self._finish_reasons[delta.index] = delta.finish_reason
        for entry in delta.logprobs or ():
            self._cumulative_logprobs[delta.index] += entry.chosen.logprob

    def _add(self, response: pb.ModelInferResponse, name: str, pieces: list[Delta]) -> None:
        raw = self._raw(name, pieces)
        kind = OUTPUT_TYPES[name]
        num_values = len(pieces) if kind.num_values < 0 else kind.num_values
        response.outputs.add(name=name, datatype=kind.datatype, shape=[num_values])
        response.raw_output_contents.append(raw)

    def _raw(self, name: str, pieces: list[Delta]) -> bytes:
        match name:
            case "text_output":
                return encode_bytes([self._prompt + piece.text for piece in pieces])
            case "finish_reason":
                return encode_bytes(self._finish_reasons)
            case "cumulative_logprob":
                return encode_numbers("FP32", self._cumulative_logprobs)
            case "logprobs":
                return encode_bytes([_logprobs_json(piece.logprobs) for piece in pieces])
            case "num_input_tokens":
                return encode_numbers("UINT32", [self._num_prompt_tokens])
            case _:
                assert name == "num_output_tokens"
                return encode_numbers("UINT32", [len(piece.token_ids) for piece in pieces])


def _logprobs_json(entries: Sequence[TokenLogprobs] | None) -> str:
    """One object for each token: id to what is known of it, the chosen one first."""
    found = [_by_token_id([e.chosen, *e.top]) for e in entries or ()]
    return msgspec.json.encode(found).decode()


def _by_token_id(entries: Sequence[TokenLogprob]) -> dict[str, dict[str, object]]:
    return {
        str(e.token_id): {"logprob": e.logprob, "rank": e.rank, "decoded_token": e.text}
        for e in entries
    }
