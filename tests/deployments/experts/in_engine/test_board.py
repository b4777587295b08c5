"""When a host may be told that nobody asks by its older word."""

import numpy as np
import pytest

from deployments.experts.in_engine.client.board import Board, KnownTier
from experts.types import ExpertMap


def known(version: int) -> KnownTier:
    nothing = np.empty((1, 0), np.int16)
    return KnownTier(ExpertMap(version, 1, (), np.zeros(1, np.int32), nothing), {}, {})


def test_what_is_published_is_what_is_taken_next() -> None:
    board = Board(known(0))
    for version in (1, 2):
        board.publish(known(version))
        assert board.take().map.version == version
        board.put_back()


def test_a_version_is_settled_when_nothing_older_is_in_use() -> None:
    board = Board(known(3))
    assert board.is_settled(3)
    board.take()
    board.publish(known(4))
    assert board.is_settled(3)
    assert not board.is_settled(4)
    board.put_back()
    assert board.is_settled(4)
    board.take()
    assert board.is_settled(4)


def test_what_is_published_is_newer() -> None:
    with pytest.raises(AssertionError):
        Board(known(3)).publish(known(3))
