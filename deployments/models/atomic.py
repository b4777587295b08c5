"""Files that appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` to `path` so that no reader ever sees half of it.

    Creates the folder. Raises `OSError` where that cannot be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1, sort_keys=True)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
