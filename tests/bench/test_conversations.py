"""The made-up conversations, and the most that could be cached of them."""

import itertools

from tests.bench.conversations import Shape, Turn, conversations, most_cached_symbols

SHAPE = Shape(
    num_systems=2,
    num_conversations=4,
    num_turns=3,
    system_length=8,
    question_length=3,
    answer_length=2,
)


def turn(prompt: str, sent_s: float, first_s: float) -> Turn:
    return Turn(tuple(map(ord, prompt)), sent_s, first_s, first_s, len(prompt), 0)


def test_each_turn_begins_with_all_that_was_said_before() -> None:
    found = conversations(SHAPE, 100, seed=1)
    assert [[len(prompt) for prompt in each] for each in found] == [[11, 16, 21]] * 4
    for prompts in found:
        for earlier, later in itertools.pairwise(prompts):
            assert later[: len(earlier)] == earlier


def test_conversations_share_as_many_beginnings_as_there_are_systems() -> None:
    found = conversations(SHAPE, 100, seed=1)
    assert len({each[0][:8] for each in found}) == 2
    assert len({each[0] for each in found}) == 4
    other = conversations(SHAPE, 100, seed=2)
    assert not {each[0][:8] for each in found} & {each[0][:8] for each in other}


def test_what_was_computed_before_a_turn_was_sent_could_be_cached() -> None:
    turns = [turn("abcdef", 0, 1), turn("abcdxyz", 1, 2), turn("abcdxyzw", 1.5, 3)]
    # In blocks of 2: "abcd" is known to the second, and to the third, which was sent
    # before the second one's "abcdxy" was there.
    assert most_cached_symbols(turns, block_size=2) == 4 + 4
    later = [*turns[:2], turn("abcdxyzw", 2, 3)]
    assert most_cached_symbols(later, block_size=2) == 4 + 6


def test_the_last_symbol_is_always_computed() -> None:
    assert most_cached_symbols([turn("abcd", 0, 1), turn("abcd", 2, 3)], block_size=2) == 2
