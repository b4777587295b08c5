"""Which sequence stands in which row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.speculation.sequence_book import SequenceBook


def array(tokens: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(tokens, np.int32)


def test_a_sequence_is_known_by_its_tokens_wherever_it_stands() -> None:
    book = SequenceBook(1)
    first, _ = book.find(0, array([1, 2, 3]), 1)
    second, _ = book.find(1, array([4, 5]), 1)
    book.next_step()
    assert book.find(0, array([4, 5, 6, 7]), 2) == (second, True)
    assert book.find(1, array([1, 2, 3, 9]), 1) == (first, True)
    book.check_invariants()


def test_another_sequence_of_the_same_length_is_another() -> None:
    book = SequenceBook(1)
    first, was_known = book.find(0, array([1, 2, 3]), 1)
    book.next_step()
    second, is_known = book.find(0, array([1, 2, 4, 5]), 1)
    assert (was_known, is_known) == (False, False)
    assert first is not second


def test_who_was_away_is_known_when_it_comes_back_but_not_for_ever() -> None:
    book = SequenceBook(1, max_absent_steps=4)
    state, _ = book.find(0, array([1, 2, 3]), 1)
    for _ in range(3):
        book.next_step()
    assert book.find(5, array([1, 2, 3, 4]), 1) == (state, True)
    for _ in range(12):
        book.next_step()
    assert book.states() == []


@given(st.data())
def test_sequences_keep_their_state_while_rows_move(data: st.DataObject) -> None:
    book = SequenceBook(1)
    num = data.draw(st.integers(1, 4))
    texts = [[10 * number + i for i in range(3)] for number in range(num)]
    states = [book.find(row, array(text), 1)[0] for row, text in enumerate(texts)]
    for _ in range(data.draw(st.integers(1, 4))):
        order = data.draw(st.permutations(range(num)))
        book.next_step()
        for row, number in enumerate(order):
            new = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=3))
            texts[number] += new
            assert book.find(row, array(texts[number]), len(new)) == (states[number], True)
            book.check_invariants()


@given(st.data())
def test_no_two_rows_have_one_state_however_alike_their_texts_are(data: st.DataObject) -> None:
    book = SequenceBook(1)
    texts: list[list[int]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        book.next_step()
        texts += [[0]] * data.draw(st.integers(0, 2))
        texts = data.draw(st.permutations(texts))
        del texts[4:]
        new = [data.draw(st.lists(st.just(0), min_size=1, max_size=2)) for _ in texts]
        texts = [text + more for text, more in zip(texts, new, strict=True)]
        numbers = [
            book.find(row, array(text), len(more))[0].number
            for row, (text, more) in enumerate(zip(texts, new, strict=True))
        ]
        book.check_invariants()
        assert len(set(numbers)) == len(numbers)
