"""Memory for the keys and values of many sequences, in pages of a few tokens.

A sequence has as many pages as its tokens need, in any order, and gives them back when it is
forgotten. The first page belongs to nobody: what stands for no token is written there.
"""

from collections.abc import Iterable

import torch

PAGE_TOKENS = 16


class KvPages:
    """Pages of one draft model. Not for several threads at once."""

    def __init__(
        self,
        num_layers: int,
        row_shape: tuple[int, int],
        dtype: torch.dtype,
        num_bytes: int,
        device: str = "cpu",
    ) -> None:
        """As many pages as fit; at least two. `row_shape` is [num_kv_heads, head_size]."""
        row_bytes = row_shape[0] * row_shape[1] * dtype.itemsize
        page_bytes = 2 * num_layers * PAGE_TOKENS * row_bytes
        self.num_pages = max(num_bytes // page_bytes, 2)
        shape = (num_layers, self.num_pages * PAGE_TOKENS, *row_shape)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._free = list(range(self.num_pages - 1, 0, -1))

    @property
    def num_free(self) -> int:
        """Pages that can be taken."""
        return len(self._free)

    def grow(self, pages: list[int], num_tokens: int) -> bool:
        """Add pages until there is room for so many tokens; False, and none is added, where
        too few are left."""
        num_wanted = num_pages_for(num_tokens) - len(pages)
        if num_wanted > len(self._free):
            return False
        for _ in range(num_wanted):
            pages.append(self._free.pop())
        return True

    def give_back(self, pages: list[int]) -> None:
        """All of them."""
        self._free.extend(pages)
        pages.clear()

    def check_invariants(self, held: Iterable[list[int]]) -> None:
        """Each page is free or held, once; `held` are all lists that have grown."""
        pages = [*self._free, *(page for each in held for page in each)]
        assert sorted(pages) == list(range(1, self.num_pages))


def num_pages_for(num_tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-num_tokens // PAGE_TOKENS)
