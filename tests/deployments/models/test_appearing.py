import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.models.appearing import appearing
from infra.errors import ConfigError


def test_the_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    with appearing(tmp_path / "deep" / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "1"


@pytest.mark.parametrize("error", [ConfigError("x"), KeyboardInterrupt(), ValueError("x")])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), appearing(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from deployments.models.appearing import appearing\n"
        "with appearing(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').mkdir(); (partial / 'half' / 'a').write_text('1')\n"
        "    (partial / 'b').write_text('1')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.run(argv, check=False, timeout=50).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    with appearing(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_directory_is_taken_and_anything_else_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with appearing(tmp_path / "empty") as partial:
        (partial / "a").write_text("1")
    assert (tmp_path / "empty" / "a").exists()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "dangling"):
        with pytest.raises(ConfigError, match="is there already"), appearing(tmp_path / name):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    with appearing(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        with pytest.raises(ConfigError, match="another process"), appearing(tmp_path / "out"):
            pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_reservation_that_is_renamed_while_one_waits_for_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_by_another(handle: int, operation: int) -> None:
        (tmp_path / ".out.partial").rename(tmp_path / "out")
        (tmp_path / "out" / "theirs").write_text("1")

    monkeypatch.setattr(fcntl, "flock", finished_by_another)
    with pytest.raises(ConfigError, match="another process"), appearing(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "theirs").exists()


def test_a_place_that_takes_no_directory_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    within = tmp_path / "file" / "out"
    with pytest.raises(ConfigError, match="cannot be written"), appearing(within):
        pass
    full = os.strerror(errno.ENOSPC)
    with pytest.raises(ConfigError, match=full), appearing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, full)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
