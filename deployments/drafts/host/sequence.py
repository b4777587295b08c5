"""A sequence as the draft model has it: what was said, and the path ahead of it.

    said  t1 t2 ... tn | path  p1 p2 ... pm
                         the draft, and what comes after it if all of it is accepted

Of these the first `num_read` are in the model's pages. The last token of all is not, unless
the path is at its end: it was said by the model and not yet read. When the engine has said
more, as much of the path as agrees with it becomes part of what was said, and nothing of that
is computed again; where the path leads elsewhere it is cut off, and grows anew from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deployments.drafts.vocabulary import Vocabulary


class PathToken(NamedTuple):
    """One token of a path."""

    own_id: int
    """The draft model's."""
    token_id: int
    """The engine's."""
    kind: int


@dataclass(slots=True)
class DraftedSequence:
    """One sequence of one engine."""

    num_told: int
    """Tokens of it, as the engine counts them; those before the first that it told too."""
    said: list[int] = field(default_factory=list)
    """In the draft model's tokens."""
    path: list[PathToken] = field(default_factory=list)
    num_read: int = 0
    pages: list[int] = field(default_factory=list)
    is_at_end: bool = False
    """The path cannot go on: the engine does not know the model's next token."""

    @property
    def unread(self) -> list[int]:
        """What the model has to read until it can say the next token."""
        num_said = len(self.said)
        if self.num_read < num_said:
            return self.said[self.num_read :] + [token.own_id for token in self.path]
        return [token.own_id for token in self.path[self.num_read - num_said :]]

    def say(self, token_ids: Sequence[int], vocabulary: Vocabulary) -> None:
        """The engine has said these."""
        num_same = 0
        for token_id, expected in zip(token_ids, self.path, strict=False):
            if token_id != expected.token_id:
                break
            num_same += 1
        self.num_told += len(token_ids)
        self.said.extend(token.own_id for token in self.path[:num_same])
        if num_same == len(token_ids):
            del self.path[:num_same]
            return
        self.num_read = min(self.num_read, len(self.said))
        self.path.clear()
        self.is_at_end = False
        self.said.extend(vocabulary.own_ids(token_ids[num_same:]))
        # Tokens without a text are none here; the model needs one to say the next.
        self.num_read = max(min(self.num_read, len(self.said) - 1), 0)

    def go_on(self, token: PathToken | None, num_read: int) -> None:
        """So many unread tokens are read, and this is the path's next token; None where the
        engine does not know it."""
        self.num_read += num_read
        if token is None:
            self.is_at_end = True
        else:
            self.path.append(token)

    def shorten(self, num_tokens: int) -> None:
        """Keep the latest tokens alone, to be read anew: the pages can be given back."""
        del self.said[:-num_tokens]
        self.path.clear()
        self.num_read, self.is_at_end = 0, False

    def check_invariants(self) -> None:
        """What is read is there, and where the path goes on there is something to read."""
        num_tokens = len(self.said) + len(self.path)
        assert 0 <= self.num_read <= num_tokens
        assert self.unread or self.is_at_end or not num_tokens
        assert self.num_told >= 0
