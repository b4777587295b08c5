"""Memory that processes of one node share: a file without a name, passed as a descriptor.

It is in no folder, so the kernel takes it back with the last process that has it mapped,
however that ends. Its size is sealed: a peer that could cut it off would make reading it
a SIGBUS.
"""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from experts.transport.errors import RefusedError

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def make(num_bytes: int) -> tuple[int, NDArray[np.uint8]]:
    """New memory of zeros, and its descriptor to pass on and close. Shape: [num_bytes]."""
    fd = os.memfd_create("coterie-experts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, num_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    return fd, _map(fd, num_bytes, mmap.PROT_READ | mmap.PROT_WRITE)


def attach(fd: int, num_bytes: int, is_writable: bool) -> NDArray[np.uint8]:
    """The memory that a peer has made. Shape: [num_bytes].

    Raises RefusedError where it is smaller, or could become so.
    """
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SIZE_SEALS == _SIZE_SEALS
    except OSError:
        is_sealed = False
    if not is_sealed or os.fstat(fd).st_size != num_bytes:
        raise RefusedError(f"the peer's memory is not a sealed file of {num_bytes} bytes")
    return _map(fd, num_bytes, mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0))


def _map(fd: int, num_bytes: int, protection: int) -> NDArray[np.uint8]:
    # Populated: a page touched for the first time costs more than the frame in it.
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(fd, num_bytes, flags, protection), np.uint8)
