"""A vocabulary in which nothing fits."""

from collections.abc import Sequence


class OddVocabulary:
    """0 and 1 are the same for both, 2 is two tokens of the draft model's, and 3 none; the
    draft model's own 2 is no token of the engine's."""

    def own_ids(self, token_ids: Sequence[int]) -> Sequence[int]:
        odd = {2: (0, 1), 3: ()}
        return [own for t in token_ids for own in odd.get(t, (t,))]

    def token_id(self, own_id: int) -> int | None:
        return own_id if own_id < 2 else None

    def __repr__(self) -> str:
        return "OddVocabulary()"
