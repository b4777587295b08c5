"""Work that a Ctrl-C does not break into.

Python raises a KeyboardInterrupt in the main thread between any two instructions, also
where gRPC has just taken a lock of its channel. The lock then stays taken, and every later
call on that channel waits for ever. So what touches a channel for the main thread runs in
another one, which no signal interrupts; the main thread waits for it in a `SimpleQueue`,
whose waiting is one instruction.
"""

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """What a function gave, or raised."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        try:
            self._value = function()
        except BaseException as error:
            self.error = error

    def value(self) -> T:
        """What it gave; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._value


class ReadAhead(Generic[T]):
    """Calls a function again and again in a thread of its own, until it raises.

    `next` gives what it gave, in order. It may be interrupted and called again;
    nothing is lost by that.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._outcomes: SimpleQueue[Outcome[T]] = SimpleQueue()
        self._last: Outcome[T] | None = None
        _start(lambda: _repeat(function, self._outcomes))

    def next(self) -> T:
        """The next value; after the last one, what the function raised."""
        if self._last is None:
            outcome = self._outcomes.get()
            if outcome.error is None:
                return outcome.value()
            self._last = outcome
        return self._last.value()


def uninterrupted(function: Callable[[], T]) -> T:
    """What the function gives. A KeyboardInterrupt ends the wait for it, not it itself."""
    if not is_interruptible():
        return function()
    outcomes: SimpleQueue[Outcome[T]] = SimpleQueue()
    _start(lambda: outcomes.put(Outcome(function)))
    return outcomes.get().value()


def is_interruptible() -> bool:
    """Whether a KeyboardInterrupt can be raised in this thread."""
    return threading.current_thread() is threading.main_thread()


def _repeat(function: Callable[[], T], outcomes: "SimpleQueue[Outcome[T]]") -> None:
    is_last = False
    while not is_last:
        outcome = Outcome(function)
        is_last = outcome.error is not None
        outcomes.put(outcome)


def _start(work: Callable[[], None]) -> None:
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="coterie-call", daemon=True).start()
