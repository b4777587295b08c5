"""Ranks of one replica share its calls by what each has cached and has to do."""

import pytest

from deployments.engine.dp_ranks import DpRanks
from deployments.types import Call, Delta, Sampling

PROMPT = list(range(400))


def call(**rank_prefixes: int) -> Call:
    ranks = {int(name[1:]): tokens for name, tokens in rank_prefixes.items()}
    return Call("r", PROMPT, Sampling(), rank_prefixes=ranks)


def test_a_call_goes_to_the_rank_that_has_its_prefix() -> None:
    ranks = DpRanks(4)
    for rank in (2, 0, 3):
        with ranks.reserve(call(**{f"r{rank}": 384})) as ranked:
            assert ranked.dp_rank == rank
    ranks.check_invariants()


def test_ranks_share_the_load_and_give_it_back() -> None:
    ranks = DpRanks(2)
    with ranks.reserve(call()) as first, ranks.reserve(call()) as second:
        assert {first.dp_rank, second.dp_rank} == {0, 1}
        # Its prompt is computed: only the sequence is left to do.
        second.saw(Delta(0, "a", [1]))
        with ranks.reserve(call()) as third:
            assert third.dp_rank == second.dp_rank
    ranks.check_invariants()
    with ranks.reserve(call(r1=384)) as ranked:
        assert ranked.dp_rank == 1


def test_a_busy_rank_loses_a_call_whose_prefix_it_has() -> None:
    ranks = DpRanks(2)
    with ranks.reserve(call(r0=384)), ranks.reserve(Call("s", PROMPT * 3, Sampling())) as busy:
        assert busy.dp_rank == 1
        with ranks.reserve(call(r1=384)) as ranked:
            assert ranked.dp_rank == 0


def test_an_only_rank_takes_all() -> None:
    ranks = DpRanks(1)
    with ranks.reserve(call()) as first, ranks.reserve(call(r0=1)) as second:
        assert (first.dp_rank, second.dp_rank) == (0, 0)


def test_a_call_that_fails_gives_its_load_back() -> None:
    ranks = DpRanks(2)
    with pytest.raises(RuntimeError), ranks.reserve(call(r0=384)):
        raise RuntimeError
    ranks.check_invariants()
