"""A real partition, in a network namespace of its own."""

import json
import subprocess
import sys

import pytest


def test_what_is_cut_off_hears_nothing_and_is_not_heard_and_loses_nothing() -> None:
    program = [sys.executable, "-m", "tests.chaos.echoes_program"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=50)
    if ended.returncode == 1 and "Traceback" not in ended.stderr:
        pytest.skip(f"no network namespace: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == dict.fromkeys(found, True)
