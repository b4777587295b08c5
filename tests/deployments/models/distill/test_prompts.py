import random
from pathlib import Path

import pytest

from deployments.models.distill import prompts as prompts_module
from deployments.models.distill.prompts import Prompts, default_prompts, file_prompts
from deployments.models.distill.stdlib_text import functions_and_paragraphs
from deployments.models.distill.subjects import SUBJECTS
from infra.errors import ConfigError
from tests.bench import speculation_prompts

FUNCTIONS = [f"def f{number}(): pass" for number in range(6)]
PARAGRAPHS = [f"Paragraph {number}. It ends." for number in range(6)]


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> Prompts:
    """The usual prompts, with a small standard library."""
    monkeypatch.setattr(
        prompts_module,
        "functions_and_paragraphs",
        lambda: (list(FUNCTIONS), list(PARAGRAPHS)),
    )
    return default_prompts(0, num_held_out=2)


def things_in(prompts: Prompts, *, is_held_out: bool) -> set[str]:
    asked = prompts.held_out if is_held_out else prompts.training
    return {
        thing for prompt in asked for thing in (*FUNCTIONS, *PARAGRAPHS) if thing in prompt.text
    }


def test_each_task_has_prompts_to_train_on_and_prompts_that_are_held_out(
    usual: Prompts,
) -> None:
    held_out = [prompt.task for prompt in usual.held_out]
    assert held_out == ["chat", "chat", "code", "code", "extraction", "extraction"]
    assert {prompt.task for prompt in usual.training} == {"chat", "code", "extraction"}
    assert len(set(usual.training)) == len(usual.training)
    assert not any("{" in prompt.text for prompt in usual.training)


def test_what_is_held_out_is_of_other_things_than_what_is_trained_on(usual: Prompts) -> None:
    held_out = things_in(usual, is_held_out=True)
    trained = things_in(usual, is_held_out=False)
    assert (len(held_out), held_out & trained) == (4, set())
    assert held_out | trained == {*FUNCTIONS, *PARAGRAPHS}


def test_every_thing_is_asked_about_in_one_way_before_any_is_in_two(usual: Prompts) -> None:
    code = [prompt.text for prompt in usual.training if prompt.task == "code"][:4]
    asked = sorted(next(f for f in FUNCTIONS if f in text) for text in code)
    assert len(set(asked)) == 4


def test_the_seed_decides(usual: Prompts) -> None:
    assert default_prompts(0, 2).sha256() == usual.sha256()
    assert default_prompts(1, 2).sha256() != usual.sha256()
    assert default_prompts(0, 1).sha256() != usual.sha256()


def test_what_speculation_is_measured_on_is_not_asked_here() -> None:
    assert not set(SUBJECTS) & set(speculation_prompts._SUBJECTS)
    assert len(set(SUBJECTS)) == len(SUBJECTS)


def test_the_standard_librarys_packages_have_code_and_prose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = '    def long(self):\n        """' + "One sentence. " * 20 + '"""\n'
    for name in ("package/inner.py", "package/tests/a.py", "package/__init__.py", "single.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"class A:\n{code}\n# {name}\n    def short(self): pass\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    functions, paragraphs = functions_and_paragraphs()
    assert [text.splitlines()[0] for text in functions] == ["def long(self):"]
    assert paragraphs == [("One sentence. " * 20).strip()]


@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_a_file_has_a_prompt_to_a_line_or_to_a_paragraph(between: str, tmp_path: Path) -> None:
    path = tmp_path / "asked.txt"
    texts = [f"Question {number}?" for number in range(8)]
    path.write_text(between.join([*texts, texts[0]]) + "\n")
    prompts = file_prompts(path, seed=0, num_held_out=24)
    mixed = list(texts)
    random.Random(0).shuffle(mixed)
    assert [prompt.text for prompt in prompts.held_out + prompts.training] == mixed
    assert (prompts.origin, len(prompts.held_out)) == ("asked.txt", 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"one\ntwo\n", "has 2 different prompts.*at least 8"), (b"\xff\x00", "prompts .*asked")],
)
def test_a_file_of_few_prompts_or_none_is_refused(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "asked.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        file_prompts(path, seed=0, num_held_out=24)
