"""What an engine's processes start with."""

from pathlib import Path

import pytest

from deployments.engine.environment import engine_environment

OPENING = (
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
)


@pytest.mark.parametrize("name", OPENING)
def test_what_opens_an_engine_to_others_is_switched_off_whatever_the_environment_says(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "1")
    assert engine_environment(tmp_path)[name] == "0"
