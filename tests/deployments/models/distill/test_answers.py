from pathlib import Path

import numpy as np

from deployments.models.distill.answers import Answer, AnsweredBatch, AnswerFiles
from tests.deployments.models.distill.builders import answer, batch


def as_lists(answers: list[Answer]) -> list[list[object]]:
    return [
        [a.prompt.tolist(), a.said.tolist(), a.top_ids.tolist(), a.top_logprobs.tolist()]
        for a in answers
    ]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = batch(answer([1, 2], [3]), answer([4], [5, 6, 7]), task="code", is_held_out=True)
    saved.save(tmp_path / "0.npz")
    loaded = AnsweredBatch.load(tmp_path / "0.npz")
    assert (loaded.task, loaded.is_held_out, loaded.duration_s) == ("code", True, 2.0)
    assert as_lists(loaded.answers) == as_lists(saved.answers)
    assert loaded.answers[1].tokens.tolist() == [4, 5, 6, 7]
    assert loaded.answers[0].top_logprobs.dtype == np.float16


def test_what_was_half_written_is_not_there(tmp_path: Path) -> None:
    files = AnswerFiles(tmp_path)
    batch(answer([1], [2])).save(files.path(0))
    files.path(1).with_suffix(".partial").write_bytes(b"PK\x03")
    assert [len(found.answers) for found in files.batches()] == [1]


def test_the_digest_is_of_what_was_said(tmp_path: Path) -> None:
    digests = []
    for name, token in (("a", 2), ("b", 2), ("c", 3)):
        files = AnswerFiles(tmp_path / name)
        batch(answer([1], [token])).save(files.path(0))
        digests.append(files.sha256())
    assert digests[0] == digests[1] != digests[2]
