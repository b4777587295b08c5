import hashlib
from pathlib import Path

import pytest

from deployments.models.carve.texts import default_texts, file_texts
from infra.errors import ConfigError


def long_paragraphs(text: str) -> set[str]:
    return {part.strip() for part in text.split("\n\n") if len(part.strip()) >= 40}


def test_the_usual_text_is_long_and_no_article_of_it_is_on_both_sides() -> None:
    texts = default_texts(0)
    assert len(texts.calibration) > 150_000
    assert len(texts.held_out) > 40_000
    assert long_paragraphs(texts.calibration) & long_paragraphs(texts.held_out) == set()


def test_the_seed_chooses_which_articles_are_held_out() -> None:
    digests = [
        hashlib.sha256(default_texts(seed).held_out.encode()).hexdigest() for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_is_cut_at_an_empty_line_before_its_last_quarter(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a" * 60 + "\n\n" + "b" * 30)
    texts = file_texts(path)
    assert (texts.origin, texts.calibration, texts.held_out) == (
        "notes.txt",
        "a" * 60,
        "\n\n" + "b" * 30,
    )


def test_a_file_without_empty_lines_is_cut_after_three_quarters(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("0123456789" * 4)
    texts = file_texts(path)
    assert (len(texts.calibration), len(texts.held_out)) == (30, 10)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"calibration text .*model\.bin"):
        file_texts(path)
