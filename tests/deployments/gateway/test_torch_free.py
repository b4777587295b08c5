"""What a gateway loads of transformers, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from deployments.gateway.torch_free import hide_torch

PROGRAM = """
import asyncio, json, sys
from deployments.gateway.tokenizer import Tokenizer
from deployments.gateway.torch_free import hide_torch
hide_torch()
tokenizer = Tokenizer.load(sys.argv[1])
ids = asyncio.run(tokenizer.encode("two one two"))
print(json.dumps([ids, [name for name in sys.modules if name.startswith("torch.")]]))
"""


def write_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({"one": 1, "two": 2, "?": 0}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_tokenizer_is_loaded_without_torch_and_without_a_word_of_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[2, 1, 2], []]
    assert "PyTorch" not in done.stderr


def test_torch_that_has_been_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = ModuleType("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    hide_torch()
    assert sys.modules["torch"] is torch
