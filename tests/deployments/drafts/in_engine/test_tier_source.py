"""An engine's end of the draft tier, and hosts that come, go and are slow."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.drafts.in_engine.tier_source import LOOK_S, TierSource
from experts.directory import DirectoryFile, write_directory
from experts.transport.hub import Hub
from experts.transport.link import Identity
from router.speculation.confidence import NUM_KINDS
from router.speculation.draft_source import Terms, ToldRow
from tests.deployments.drafts.host.test_desk import expected
from tests.deployments.drafts.in_engine.draft_hosts import LIMIT_S, MODEL, DraftHostThread

CONTEXT_TOKENS = 64
TERMS = Terms(np.ones(NUM_KINDS), 0.5)
MAX_UNANSWERED, HANGS_S = 8, 5.0


class Clock:
    """The real one, which can be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Tier:
    """An engine, and the hosts that it is told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.hub = Hub(Identity("engine", MODEL))
        self.hosts: list[DraftHostThread] = []
        self.source = TierSource(
            "engine", self.hub, DirectoryFile(folder / "hosts"), CONTEXT_TOKENS, self.clock
        )

    def start(self, name: str, num_pages: int = 100) -> DraftHostThread:
        host = DraftHostThread(self.folder, name, num_pages, CONTEXT_TOKENS)
        self.hosts.append(host)
        self.name_hosts()
        return host

    def linked(self, name: str) -> DraftHostThread:
        """A host that the engine has asked already."""
        host = self.start(name)
        assert self.asked(s9=[1]) == {"s9": expected([1])}
        return host

    def end(self, host: DraftHostThread) -> None:
        self.hosts.remove(host)
        host.close()

    def name_hosts(self) -> None:
        """The engine will see who is there when it looks next."""
        write_directory(self.folder / "hosts", [host.card for host in self.hosts])
        self.clock.ahead_s += 2 * LOOK_S

    def num_links(self) -> int:
        return len(self.hub.links)

    def tell(self, **sequences: Sequence[int]) -> None:
        rows = [
            ToldRow(int(name[1:]), np.array(token_ids, np.int32), 4)
            for name, token_ids in sequences.items()
        ]
        self.source.tell(rows, TERMS)

    def give(self, patience_s: float = LIMIT_S) -> dict[str, list[int]]:
        found = self.source.give(patience_s)
        return {f"s{number}": list(draft.token_ids) for number, draft in found.items()}

    def asked(self, **sequences: Sequence[int]) -> dict[str, list[int]]:
        self.tell(**sequences)
        return self.give()

    def close(self) -> None:
        self.source.close()
        for host in self.hosts:
            host.close()


@pytest.fixture
def tier() -> Iterator[Tier]:
    with tempfile.TemporaryDirectory(prefix="drafts-") as name:  # a socket's path is short
        found = Tier(Path(name))
        try:
            yield found
        finally:
            found.close()


def test_drafts_come_for_what_was_told(tier: Tier) -> None:
    tier.start("a")
    assert tier.asked(s1=[0, 1], s2=[2]) == {"s1": expected([0, 1]), "s2": expected([2])}
    said = [0, 1, *expected([0, 1])[:2], 0]
    assert tier.asked(s1=said, s3=[1]) == {"s1": expected(said), "s3": expected([1])}
    assert tier.source.token_s >= 0


def test_without_hosts_there_are_no_drafts(tier: Tier) -> None:
    assert tier.asked(s1=[0]) == {}
    (tier.folder / "hosts").write_text("no list of hosts")
    tier.clock.ahead_s += 2 * LOOK_S
    assert tier.asked(s1=[0]) == {}
    assert not tier.source.is_linked


def test_when_a_host_is_gone_another_is_told_all(tier: Tier) -> None:
    first = tier.start("a")
    assert tier.asked(s1=[0, 1]) == {"s1": expected([0, 1])}
    tier.end(first)
    assert tier.asked(s1=[0, 1, 2]) == {}
    assert not tier.source.is_linked
    tier.start("b")
    assert tier.asked(s1=[0, 1, 2, 2]) == {"s1": expected([0, 1, 2, 2])}


def test_a_host_that_is_gone_while_it_is_waited_for_gives_nothing(tier: Tier) -> None:
    host = tier.linked("a")
    with host.stopped():
        tier.tell(s1=[0, 1])
        host.end_soon()
    assert tier.give() in ({}, {"s1": expected([0, 1])})
    tier.end(host)
    assert tier.asked(s1=[0, 1, 2]) == {}
    assert not tier.source.is_linked


def test_a_host_that_is_named_no_more_is_left_for_another(tier: Tier) -> None:
    first = tier.start("a")
    tier.asked(s1=[0, 1])
    tier.hosts.remove(first)
    tier.start("b")
    assert tier.asked(s1=[0, 1, 2]) == {"s1": expected([0, 1, 2])}
    assert tier.source.is_linked
    first.close()
    assert tier.asked(s1=[0, 1, 2, 0]) == {"s1": expected([0, 1, 2, 0])}


def test_a_host_is_looked_for_only_now_and_then(tier: Tier) -> None:
    assert tier.asked(s1=[0]) == {}
    tier.start("a")
    tier.clock.ahead_s -= 2 * LOOK_S
    assert tier.asked(s1=[0]) == {}
    tier.clock.ahead_s += 2 * LOOK_S
    assert tier.asked(s1=[0]) == {"s1": expected([0])}


def test_a_sequence_that_the_host_has_forgotten_is_told_anew(tier: Tier) -> None:
    tier.start("a", num_pages=2)
    assert tier.asked(s1=[0, 1]) == {"s1": expected([0, 1])}
    assert tier.asked(s2=[2]) == {"s2": expected([2])}
    assert tier.asked(s1=[0, 1, 2]) == {}
    assert tier.asked(s1=[0, 1, 2, 0]) == {"s1": expected([0, 1, 2, 0])}


def test_of_a_long_sequence_the_latest_tokens_are_told(tier: Tier) -> None:
    tier.start("a")
    said = [i % 3 for i in range(3 * CONTEXT_TOKENS)]
    tier.asked(s1=said)  # it is read first
    said.append(1)
    assert tier.asked(s1=said) == {"s1": expected(said[-CONTEXT_TOKENS - 1 :])}
    said += [2] * (CONTEXT_TOKENS + 1)  # told too long ago to go on from there
    tier.asked(s1=said)
    said.append(0)
    assert tier.asked(s1=said) == {"s1": expected(said[-CONTEXT_TOKENS - 1 :])}


def test_who_is_not_waited_for_gives_nothing_and_what_comes_too_late_is_dropped(
    tier: Tier,
) -> None:
    host = tier.linked("a")
    with host.stopped():
        tier.tell(s1=[0, 1])
        assert tier.give(0.0) == {}
        assert tier.give(0.01) == {}
    assert tier.asked(s1=[0, 1, 2]) == {"s1": expected([0, 1, 2])}


def test_a_host_that_does_not_keep_up_is_told_no_more_until_it_does(tier: Tier) -> None:
    host = tier.linked("a")
    said = [0, 1]
    with host.stopped():
        for number in range(3 * MAX_UNANSWERED):
            said.append(number % 3)
            tier.tell(s1=said)
            assert tier.give(0.0) == {}
    tier.hub.wait(LIMIT_S)  # for the answer
    said.append(2)
    assert tier.asked(s1=said) == {"s1": expected(said)}
    assert host.loop.num_answers <= 3, "of many orders the last alone is answered"
    assert tier.source.is_linked


def test_a_host_that_hangs_is_left_and_dialled_again(tier: Tier) -> None:
    host = tier.linked("a")
    said = [0, 1]
    with host.stopped():
        for _ in range(MAX_UNANSWERED + 1):
            said.append(1)
            tier.tell(s1=said)
        assert tier.num_links() == 1
        tier.clock.ahead_s += HANGS_S
        tier.tell(s1=said)
        assert tier.num_links() == 0
        assert tier.give() == {}
    tier.clock.ahead_s += 2 * LOOK_S
    assert tier.asked(s1=said) == {"s1": expected(said)}
