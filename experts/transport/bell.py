"""How a process that sleeps learns that a peer on its node has written or released.

A hub has one bell for all its local links: an eventfd, which wakes its sleep, and two
words in shared memory that say what it waits for. A peer rings only when its word is set,
so that a frame for a hub that is awake costs no system call.

No ring is lost: who is about to sleep sets its word and then looks at the rings once more,
a peer writes to its ring and then looks at the word, and `SharedWord.store_then_load` keeps
both in this order. So either the peer sees the word, or the sleeper sees the frame. A ring
that nobody waits for any longer is one look in vain.

An eventfd, unlike a futex, is waited for together with sockets: those by which the kernel
says that a peer is dead, and those of links between nodes. A round trip between two
processes takes the same 10.5 microseconds with either.
"""

import contextlib
import os

from experts.transport import shared_memory
from experts.transport.shared_word import WORD_BYTES, SharedWord

_PAGE_BYTES = 4096


class Bell:
    """A hub's own bell."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Can be read from when somebody has rung, until `hush`."""
        self.page_fd, page = shared_memory.make(_PAGE_BYTES)
        self._for_frames = SharedWord(page, 0)
        self._for_room = SharedWord(page, WORD_BYTES)

    def await_frames(self) -> None:
        """From here on who commits a frame rings."""
        self._for_frames.store_then_load(1, self._for_frames)

    def await_room(self) -> None:
        """From here on who releases a frame rings."""
        self._for_room.store_then_load(1, self._for_room)

    def has_frames(self) -> None:
        """The opposite of `await_frames`."""
        self._for_frames.store(0)

    def has_room(self) -> None:
        """The opposite of `await_room`."""
        self._for_room.store(0)

    def hush(self) -> None:
        """Take back what was rung, if it was: whoever sleeps next looks first.

        Needless for who is woken by a ring alone, not by that there was one.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def ring(self) -> None:
        """End a sleep of one's own. For any thread."""
        os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        os.close(self.page_fd)


class PeerBell:
    """The bell of a peer. Keeps both open by itself."""

    def __init__(self, fd: int, page_fd: int) -> None:
        """Raises RefusedError where the page is none."""
        page = shared_memory.attach(page_fd, _PAGE_BYTES, is_writable=False)
        self.awaits_frames = SharedWord(page, 0)
        self.awaits_room = SharedWord(page, WORD_BYTES)
        self._fd = os.dup(fd)

    def ring(self) -> None:
        """Wake the peer. Never waits."""
        # Full means that it has been rung 2^64 - 2 times, and was never read.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)
