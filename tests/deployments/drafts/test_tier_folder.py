"""What an engine's process knows of its draft replicas."""

from pathlib import Path

import pytest

from deployments.drafts.tier_folder import (
    FOLDER_VARIABLE,
    draft_identity,
    folder_of_environment,
)
from infra.errors import ConfigError


def test_the_environment_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert folder_of_environment().path == tmp_path
    monkeypatch.delenv(FOLDER_VARIABLE)
    with pytest.raises(ConfigError, match=f"{FOLDER_VARIABLE} does not say where"):
        folder_of_environment()


def test_a_model_is_the_same_wherever_it_is_kept() -> None:
    assert draft_identity("/models/small") == draft_identity("elsewhere/small/")
    assert draft_identity("/models/small") != draft_identity("/models/large")
