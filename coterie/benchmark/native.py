"""The driver of a Coterie cluster, over gRPC."""

from collections.abc import AsyncIterator

from coterie.benchmark.driver import Manner
from coterie.benchmark.prompts import WORDS, Alphabet
from coterie.benchmark.types import Ask, Counts, Piece
from coterie.client_async import AsyncClient
from coterie.sampling import Sampling
from coterie.security import Security
from coterie.stream_async import AsyncStream
from coterie.types import Usage


class NativeDriver:
    """A `Driver` over `coterie.AsyncClient`. Without `security` the key of the manner
    goes along, and no TLS is spoken."""

    def __init__(self, address: str, manner: Manner, security: Security | None = None) -> None:
        chosen = security or Security(api_key=manner.api_key)
        # What is turned away is measured, not smoothed over.
        self._client = AsyncClient(address, max_retries=0, **chosen.keywords)
        self._manner = manner

    async def prepare(self) -> Alphabet:
        """See `Driver.prepare`. Words for conversations, else token ids of the words."""
        model = self._manner.model
        timeout_s = self._manner.contact_timeout_s
        await self._client.model(model, timeout_s=timeout_s)
        if self._manner.is_chat:
            return WORDS
        found = await self._client.tokenize(
            " ".join(WORDS), model=model, with_special_tokens=False, timeout_s=timeout_s
        )
        return tuple(sorted(set(found.token_ids)))

    async def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        """See `Driver.stream`."""
        async with self._call(ask) as stream:
            async for chunk in stream:
                yield Piece(bool(chunk.token_ids), _counts_of(chunk.usage))

    async def close(self) -> None:
        """See `Driver.close`."""
        await self._client.close()

    def _call(self, ask: Ask) -> AsyncStream:
        manner, client = self._manner, self._client
        sampling = Sampling(
            max_tokens=ask.max_tokens,
            temperature=manner.temperature,
            ignore_eos=manner.ignore_eos,
        )
        if isinstance(ask.prompt, str) and manner.is_chat:
            return client.chat(
                ask.prompt, model=manner.model, timeout_s=manner.timeout_s, sampling=sampling
            )
        return client.generate(
            ask.prompt, model=manner.model, timeout_s=manner.timeout_s, sampling=sampling
        )


def _counts_of(usage: Usage | None) -> Counts | None:
    if usage is None:
        return None
    return Counts(usage.num_prompt_tokens, usage.num_output_tokens, usage.num_cached_tokens)
