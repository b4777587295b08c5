"""The digest of the code that replicas run."""

from pathlib import Path

import pytest

from deployments import code_version as module
from deployments.code_version import code_version


def test_it_changes_with_each_module_of_the_rooms_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "router").mkdir()
    found = []
    for name, text in (
        ("router/pick.py", "a"),
        ("router/pick.py", "b"),
        ("router/score.py", ""),
        ("README.md", "no code"),
    ):
        (tmp_path / name).write_text(text)
        code_version.cache_clear()
        found.append(code_version())
    code_version.cache_clear()
    assert len(set(found)) == 3
    assert found[2] == found[3]
