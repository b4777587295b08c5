"""Conversations that share system prompts, and what could be cached of them at most.

A *conversation* is a row of turns; each turn's prompt is all that was said before and
something new. The answers are made up as well, so every server gets the same prompts.
Clients take the conversations in turn: a conversation's next turn comes when all others
that wait have had theirs.

Worked example: with a system prompt of 256 tokens, 48 tokens a question and 16 an answer,
the turns of a conversation have 304, 368, 432 ... tokens.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.benchmark.driver import Driver
from coterie.benchmark.prompts import Alphabet
from coterie.benchmark.types import Ask


@dataclass(frozen=True)
class Shape:
    """Of a load. Lengths in symbols of the alphabet, which are tokens or about that.

    An odd number of conversations: of an even one, replicas that take requests in turn
    would get each conversation back by accident.
    """

    num_systems: int = 4
    num_conversations: int = 25
    num_turns: int = 6
    system_length: int = 256
    question_length: int = 48
    answer_length: int = 16
    num_output_tokens: int = 16


@dataclass(frozen=True)
class Turn:
    """What was measured of one turn; times in seconds, from the load's start."""

    prompt: tuple[int, ...]
    """Places in the alphabet."""
    sent_s: float
    first_s: float
    end_s: float
    num_prompt_tokens: int
    num_cached_tokens: int


def conversations(shape: Shape, num_symbols: int, seed: int) -> list[list[tuple[int, ...]]]:
    """The prompts of all turns, as places in an alphabet. No two seeds share a prefix.

    Shape: [num_conversations, num_turns], of tuples.
    """
    dice = random.Random(f"conversations/{seed}")

    def some(length: int) -> tuple[int, ...]:
        return tuple(dice.choices(range(num_symbols), k=length))

    systems = [some(shape.system_length) for _ in range(shape.num_systems)]
    found = []
    for number in range(shape.num_conversations):
        said, prompts = systems[number % shape.num_systems], []
        for _ in range(shape.num_turns):
            said += some(shape.question_length)
            prompts.append(said)
            said += some(shape.answer_length)
        found.append(prompts)
    dice.shuffle(found)
    return found


async def hold(
    driver: Driver,
    plan: Sequence[Sequence[tuple[int, ...]]],
    alphabet: Alphabet,
    *,
    num_clients: int,
    num_output_tokens: int,
) -> list[Turn]:
    """Hold the conversations, with so many turns under way at a time."""
    waiting = deque(deque(prompts) for prompts in plan)
    turns: list[Turn] = []
    start_s = time.monotonic()

    async def client() -> None:
        while waiting:
            left = waiting.popleft()
            turns.append(
                await _take(driver, left.popleft(), alphabet, num_output_tokens, start_s)
            )
            if left:
                waiting.append(left)

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(client())
    return turns


async def _take(
    driver: Driver,
    prompt: tuple[int, ...],
    alphabet: Alphabet,
    num_output_tokens: int,
    start_s: float,
) -> Turn:
    symbols = [alphabet[place] for place in prompt]
    is_text = isinstance(symbols[0], str)
    text = " ".join(map(str, symbols)) if is_text else tuple(map(int, symbols))
    sent_s = time.monotonic() - start_s
    first_s, counts = None, None
    async for piece in driver.stream(Ask(text, num_output_tokens)):
        if first_s is None and piece.has_output:
            first_s = time.monotonic() - start_s
        counts = piece.counts or counts
    assert first_s is not None, "an answer without output"
    assert counts is not None, "an answer without counts"
    return Turn(
        prompt=prompt,
        sent_s=sent_s,
        first_s=first_s,
        end_s=time.monotonic() - start_s,
        num_prompt_tokens=counts.num_prompt_tokens,
        num_cached_tokens=counts.num_cached_tokens,
    )


def most_cached_symbols(turns: Sequence[Turn], block_size: int) -> int:
    """Symbols that an all-knowing assignment finds cached, with caches without end.

    Those of the leading full blocks of each prompt that some replica had computed before
    the turn was sent; the last symbol is always computed.
    """
    computed = deque(sorted(turns, key=lambda turn: turn.first_s))
    known: set[tuple[int, ...]] = set()
    total = 0
    for turn in sorted(turns, key=lambda turn: turn.sent_s):
        while computed[0].first_s <= turn.sent_s:
            done = computed.popleft().prompt
            known |= {done[:end] for end in range(block_size, len(done) + 1, block_size)}
        for end in range(block_size, len(turn.prompt), block_size):
            if turn.prompt[:end] not in known:
                break
            total += block_size
    return total
