"""The file by which an engine's processes learn of their expert hosts."""

from pathlib import Path

import pytest

from experts.directory import DirectoryFile, HostCard, write_directory
from experts.types import HostId
from infra.errors import ConfigError

A = HostCard(HostId("a"), ("unix:///tmp/a", "tcp://127.0.0.1:4711"))
B = HostCard(HostId("b"), ("tcp://127.0.0.1:4712",))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    directory = DirectoryFile(path)
    assert directory.cards() == ()
    for cards in [(A, B), (B,), (), (A,)]:
        write_directory(path, cards)
        assert directory.cards() == cards
        assert directory.cards() == cards
    path.unlink()
    assert directory.cards() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hosts": 3}', '{"hosts": ["a"]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no list of expert hosts"):
        DirectoryFile(path).cards()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"host": "", "addresses": ["tcp://n:1"]},
        {"host": "a", "addresses": []},
        {"host": "a", "addresses": "tcp://n:1"},
        {"host": 3, "addresses": ["tcp://n:1"]},
        {"host": "a", "addresses": [3]},
    ],
)
def test_a_card_without_a_name_or_an_address_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="a name and addresses"):
        HostCard.of(fields)


def test_a_card_outlives_json() -> None:
    assert HostCard.of(A.as_dict()) == A
