"""A request that is asked anew after its connection was lost, and goes on where it was.

Only one whose answer is the same each time: greedy, or with a seed, or none that is chosen at
all. Another gateway is asked all of it again; what had been given by then is compared and
left out.

    given before     The sky is bl
    asked anew       The sky | is blue, | as
    given then                      ue, | as
"""

from dataclasses import dataclass, field
from typing import Any

from coterie.errors import CoterieError, UnavailableError
from coterie.v1 import inference_pb2 as pb


@dataclass
class _Given:
    """One output, as far as it was given; `num_tokens` and `num_chars` are how much of it the
    try under way has said."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    has_ended: bool = False
    num_tokens: int = 0
    num_chars: int = 0


class Repetition:
    """Of one request, over all its tries. `request` gets the id that it had in the first."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._outputs: dict[int, _Given] = {}
        self._error: CoterieError | None = None
        self.has_begun = False
        """Whether anything has been answered."""
        self.is_possible = is_repeatable(request)

    def begin_again(self, error: CoterieError) -> None:
        """The request is sent anew, after this."""
        self._error = error
        for given in self._outputs.values():
            given.num_tokens = given.num_chars = 0

    def rest_of(self, message: Any) -> Any:
        """What of an answer was not given before; None where that is nothing.

        Raises UnavailableError where the answer is another.
        """
        self.has_begun = True
        if not self.is_possible or not isinstance(message, pb.OutputChunk):
            return message
        if self._error is None:
            self._request.request_id = message.request_id
        given = self._outputs.setdefault(message.index, _Given())
        num_old_tokens = len(given.token_ids) - given.num_tokens
        num_old_chars = len(given.text) - given.num_chars
        self._compare(given, message)
        given.num_tokens += len(message.token_ids)
        given.num_chars += len(message.text)
        if num_old_tokens or num_old_chars or given.has_ended:
            message = _without(message, num_old_tokens, num_old_chars)
            if given.has_ended:
                message.ClearField("finish_reason")
            if not (message.token_ids or message.text or message.finish_reason) and (
                not message.HasField("usage")
            ):
                return None
        given.token_ids += message.token_ids
        given.text += message.text
        given.has_ended = given.has_ended or bool(message.finish_reason)
        return message

    def _compare(self, given: _Given, message: pb.OutputChunk) -> None:
        old_ids = given.token_ids[given.num_tokens :]
        old_text = given.text[given.num_chars :]
        is_same = all(
            old == new for old, new in zip(old_ids, message.token_ids, strict=False)
        ) and (message.text.startswith(old_text) or old_text.startswith(message.text))
        if is_same:
            return
        assert self._error is not None
        raise UnavailableError(f"{self._error.message}; asked anew, the answer was another one")


def is_repeatable(request: Any) -> bool:
    """Whether the same request gives the same answer."""
    if not isinstance(request, pb.GenerateRequest | pb.ChatRequest):
        return True
    sampling = request.sampling
    is_greedy = sampling.HasField("temperature") and sampling.temperature == 0
    return is_greedy or sampling.HasField("seed")


def _without(message: pb.OutputChunk, num_tokens: int, num_chars: int) -> pb.OutputChunk:
    """The message but for its first tokens and characters."""
    rest = pb.OutputChunk()
    rest.CopyFrom(message)
    del rest.token_ids[:num_tokens]
    del rest.logprobs[:num_tokens]
    rest.text = message.text[num_chars:]
    return rest
