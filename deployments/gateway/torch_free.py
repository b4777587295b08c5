"""A process that loads tokenizers, and no models.

transformers imports torch along with its tokenizers, which use nothing of it: three seconds
of a core and 260 MB of memory, for each gateway.
"""

import os
import sys


def hide_torch() -> None:
    """Let transformers find no torch in this process; for good, as it asks only once.

    Does nothing where torch has been imported.
    """
    if "torch" in sys.modules:
        return
    # It would warn that it has no models.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # As Python marks a module that must not be found.
    sys.modules["torch"] = None  # type: ignore[assignment]
