"""Putting the chunks of a stream together."""

from dataclasses import dataclass, field

from coterie.types import Chunk, FinishReason, Output, Response, TokenLogprobs, Usage


@dataclass(slots=True)
class _Growing:
    """One output as far as it has come."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def add(self, chunk: Chunk) -> None:
        self.texts.append(chunk.text)
        self.token_ids.extend(chunk.token_ids)
        self.logprobs.extend(chunk.logprobs)
        self.finish_reason = chunk.finish_reason
        self.stop_reason = chunk.stop_reason

    def output(self, index: int) -> Output:
        return Output(
            index=index,
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=tuple(self.logprobs),
        )


class Collector:
    """Gathers the chunks of one stream, in order; of several outputs too.

    `response()` may be asked for at any time: it holds what has come so far.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, _Growing] = {}
        self._request_id = ""
        self._model = ""
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """Append one chunk to the output that it continues."""
        self._request_id = chunk.request_id
        self._model = chunk.model
        self._usage = chunk.usage or self._usage
        self._outputs.setdefault(chunk.index, _Growing()).add(chunk)

    def response(self) -> Response:
        """The outputs so far, by index."""
        outputs = tuple(grown.output(i) for i, grown in sorted(self._outputs.items()))
        return Response(self._request_id, self._model, outputs, self._usage)
