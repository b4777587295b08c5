"""A draft model whose keys and values are the tokens themselves."""

from collections.abc import Sequence

import torch

from deployments.drafts.model.draft_model import Chunk, Said
from deployments.drafts.model.kv_pages import PAGE_TOKENS, KvPages

VOCABULARY_SIZE = 3
_PAGE_BYTES = 2 * PAGE_TOKENS * 4


def likeliest(token_ids: Sequence[int]) -> tuple[int, float]:
    """Each token before has its part in it."""
    mixed = len(token_ids)
    for token_id in token_ids:
        mixed = (mixed * 31 + token_id + 1) % 9973
    return mixed % VOCABULARY_SIZE, 0.5 + mixed // 7 % 5 / 10


class FakeModel:
    """Says what it finds in the pages that it is given, and nowhere else."""

    def __init__(self, num_pages: int = 1000) -> None:
        self.pages = KvPages(1, (1, 1), torch.float32, num_pages * _PAGE_BYTES)
        self.batches: list[list[int]] = []
        """How many tokens of each sequence each call has read."""
        self._written: dict[int, int] = {}

    def read(self, chunks: Sequence[Chunk]) -> Said:
        assert chunks
        pages = [page for chunk in chunks for page in chunk.pages]
        assert len(set(pages)) == len(pages), "two sequences have a page"
        assert 0 not in pages, "the first page belongs to nobody"
        self.batches.append([len(chunk.token_ids) for chunk in chunks])
        said = [likeliest(self._through(chunk)) for chunk in chunks]
        return Said([token_id for token_id, _ in said], [chance for _, chance in said])

    def _through(self, chunk: Chunk) -> list[int]:
        assert chunk.token_ids
        end = chunk.start + len(chunk.token_ids)
        places = [
            chunk.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS
            for position in range(end)
        ]
        self._written.update(zip(places[chunk.start :], chunk.token_ids, strict=True))
        return [self._written[place] for place in places]
