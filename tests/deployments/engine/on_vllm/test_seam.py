"""An output that vLLM's output processor continues, against one that it makes in one go.

The processor, its detokenizer and its search for stop strings are vLLM's own; the core is
played by the test, which hands over token after token.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from vllm.outputs import CompletionOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.outputs import LogprobsTensors

from deployments.engine.seam import SeamProcessor, params_of
from deployments.types import Call, Delivered, Sampling
from infra.errors import EngineError, InvalidArgumentError

# Importing vLLM takes some 8 s.
pytestmark = pytest.mark.model

ALPHABET = sorted(ByteLevel.alphabet())
# Characters of one, two, three and four bytes.
TEXTS = st.text("ab\u00e9\u4e2d\U0001f642", min_size=1, max_size=6)
STOPS = st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=2)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Its tokens are single bytes."""
    tokenizer = Tokenizer(BPE(vocab={char: i for i, char in enumerate(ALPHABET)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZER = byte_tokenizer()
IDS = itertools.count()


def token_ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text)
    return found


class PlayedEngine:
    """One request in a processor, whose core makes these tokens."""

    def __init__(self, call: Call, tokens: Sequence[int]) -> None:
        self.processor = SeamProcessor(TOKENIZER, log_stats=False)
        self.params = params_of(call, {})
        self._id = f"r{next(IDS)}"
        self._queue = RequestOutputCollector(self.params.output_kind, self._id)
        request = EngineCoreRequest(
            request_id=self._id,
            prompt_token_ids=call.read_token_ids,
            mm_features=None,
            sampling_params=self.params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            external_req_id=self._id,
        )
        self.processor.add_request(request, None, None, 0, self._queue)
        assert request.prompt_token_ids == call.read_token_ids, "the core reads all of it"
        self._tokens = list(tokens)

    def pieces(self, size: int) -> list[CompletionOutput]:
        """All that comes, in steps of so many tokens."""
        found = []
        while self._tokens:
            step, self._tokens = self._tokens[:size], self._tokens[size:]
            self.processor.process_outputs([self._output(step)])
            (piece,) = self._queue.get_nowait().outputs
            found.append(piece)
            if piece.finish_reason is not None:
                break
        return found

    def _output(self, step: list[int]) -> EngineCoreOutput:
        logprobs = None
        if self.params.logprobs is not None:
            ids = torch.tensor([[token, 0] for token in step])
            ranks = torch.ones(len(step), dtype=torch.int32)
            logprobs = LogprobsTensors(ids, -ids.float(), ranks).tolists()
        finish = None if self._tokens else FinishReason.LENGTH
        return EngineCoreOutput(self._id, step, new_logprobs=logprobs, finish_reason=finish)


def joined(pieces: Sequence[CompletionOutput]) -> tuple[Any, ...]:
    """What a client sees of them."""
    logprobs = [
        [(i, p.logprob, p.decoded_token) for i, p in place.items()]
        for piece in pieces
        for place in piece.logprobs or ()
    ]
    return (
        "".join(piece.text for piece in pieces),
        [token for piece in pieces for token in piece.token_ids],
        logprobs,
        pieces[-1].finish_reason,
        pieces[-1].stop_reason,
    )


@given(
    prompt=TEXTS,
    text=TEXTS,
    stops=STOPS,
    include_stop=st.booleans(),
    min_tokens=st.integers(0, 4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    logprobs=st.sampled_from([None, 1]),
)
def test_an_output_is_the_same_wherever_its_seam_is(
    prompt: str,
    text: str,
    stops: list[str],
    include_stop: bool,
    min_tokens: int,
    sizes: tuple[int, int],
    logprobs: int | None,
) -> None:
    tokens = token_ids(text)
    sampling = Sampling(
        max_tokens=100,
        min_tokens=min_tokens,
        stop=tuple(stops),
        include_stop=include_stop,
        logprobs=logprobs,
    )
    # A prompt may end within a character.
    call = Call("r", token_ids(prompt)[:-1] or [0], sampling)
    whole = PlayedEngine(call, tokens).pieces(sizes[0])
    for num_pieces in range(1, len(whole)):
        before = whole[:num_pieces]
        sent = [token for piece in before for token in piece.token_ids]
        delivered = Delivered(sent, sum(len(piece.text) for piece in before))
        rest = PlayedEngine(
            Call("r", call.token_ids, sampling, delivered=delivered), tokens[len(sent) :]
        )
        assert rest.params.min_tokens == max(0, min_tokens - len(sent))
        assert rest.params.max_tokens == 100 - len(sent)
        assert joined([*before, *rest.pieces(sizes[1])]) == joined(whole)
        assert not rest.processor.request_states


def test_text_that_would_come_twice_or_be_left_out_is_refused() -> None:
    call = Call("r", token_ids("a"), Sampling(max_tokens=9))
    for num_chars in (1, 3):
        delivered = Delivered(token_ids("ab"), num_chars)
        with pytest.raises(EngineError, match="the same model"):
            PlayedEngine(Call("r", call.token_ids, call.sampling, delivered=delivered), [1])


def test_a_request_that_is_refused_leaves_nothing_behind() -> None:
    engine = PlayedEngine(Call("r", [1], Sampling(max_tokens=9)), [2])
    params = params_of(Call("r", [1], Sampling(max_tokens=9), delivered=Delivered([2], 7)), {})
    request = EngineCoreRequest(
        "new", [1, 2], None, params, None, 0.0, None, None, None, external_req_id="new"
    )
    with pytest.raises(EngineError):
        engine.processor.add_request(request, None)
    assert list(engine.processor.request_states) == [engine._id]


def test_an_output_is_not_continued_where_the_model_asks_for_penalties_by_itself() -> None:
    call = Call("r", [1], Sampling(max_tokens=9), delivered=Delivered([2], 1))
    with pytest.raises(InvalidArgumentError, match="penalties"):
        params_of(call, {"presence_penalty": 0.5})
    assert params_of(call, {"repetition_penalty": 1.5}).repetition_penalty == 1.5
