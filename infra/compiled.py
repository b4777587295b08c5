"""Functions that numba compiles when their module is imported, not when they are called.

The machine code is kept on disk: beside the module, or, where that folder cannot be
written, in the user's cache folder (`NUMBA_CACHE_DIR` names another). Where nothing
can be written, each process compiles anew.

What is kept is made anew when the file changes that the function is in, and only
then. So a compiled function uses none that another file has compiled.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

_REORDERED = {"reassoc", "contract", "nsz"}
"""LLVM's flags; infinities and NaN stay what they are."""

# The first array that numba sees makes it import numpy.ma: not in a request.
numba.typeof(np.empty(0))


def compiled(signature: Any, *, reorders_sums: bool = False) -> Callable[[F], F]:
    """Compile the function for this signature alone.

    It holds the interpreter's lock while it runs. It raises TypeError for arguments
    of other types, arrays that are not contiguous among them. With `reorders_sums`,
    floats are added in whichever order is quickest.
    """

    options = {"fastmath": _REORDERED} if reorders_sums else {}

    def decorate(function: F) -> F:
        try:
            return numba.njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
        except (OSError, RuntimeError):  # no folder to keep it in, or a full disk
            return numba.njit(signature, **options)(function)  # type: ignore[no-any-return]

    return decorate


def inlined(function: F) -> F:
    """For compiled functions of the same file to call."""
    return numba.njit(function)  # type: ignore[no-any-return]
