from pathlib import Path

import pytest

from deployments.models.distill.workplace import is_begun, place_of, workplace
from infra.errors import ConfigError

IDENTITY = {"target": "t", "seed": 0, "layers": (0, 1)}


def test_what_was_finished_leaves_nothing(tmp_path: Path) -> None:
    with workplace(tmp_path / "out", IDENTITY) as place:
        assert not is_begun(tmp_path / "out")
        (place / "data").write_text("1")
        assert is_begun(tmp_path / "out")
    assert (list(tmp_path.iterdir()), is_begun(tmp_path / "out")) == ([], False)


def test_what_was_interrupted_is_there_for_the_same_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path / "out", IDENTITY) as place:
        (place / "data").write_text("1")
        raise KeyboardInterrupt
    assert is_begun(tmp_path / "out")
    with workplace(tmp_path / "out", IDENTITY) as place:
        assert (place / "data").read_text() == "1"


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path / "out", IDENTITY) as place:
        (place / "data").write_text("1")
        raise KeyboardInterrupt
    other = IDENTITY | {"seed": 1, "layers": (0, 2)}
    words = r"other values of layers, seed.*or remove it"
    with pytest.raises(ConfigError, match=words), workplace(tmp_path / "out", other):
        pass
    assert is_begun(tmp_path / "out")


def test_where_nothing_was_done_something_else_may_be_begun(tmp_path: Path) -> None:
    for seed in (0, 1):
        with (
            pytest.raises(KeyboardInterrupt),
            workplace(tmp_path / "out", IDENTITY | {"seed": seed}),
        ):
            raise KeyboardInterrupt


def test_two_do_not_make_the_same(tmp_path: Path) -> None:
    with (
        workplace(tmp_path / "out", IDENTITY),
        pytest.raises(ConfigError, match="another process"),
        workplace(tmp_path / "out", IDENTITY),
    ):
        pass


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with (
        pytest.raises(ConfigError, match="is there already"),
        workplace(tmp_path / "out", IDENTITY),
    ):
        pass
    assert not place_of(tmp_path / "out").exists()
