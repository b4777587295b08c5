"""Configurations that manifests are made of."""

from pathlib import Path
from typing import Any

import yaml

from coterie.config import Config
from deployments.kubernetes.render import Rendering

EXAMPLE = Path(__file__).parents[3] / "deployments" / "examples" / "kubernetes.yaml"

SMALL: dict[str, Any] = {
    "gateway": {"host": "0.0.0.0", "allow_anonymous": True},
    "models": [{"name": "small", "model": "smollm2-135m-instruct", "device": "cpu"}],
}
"""One model on CPUs, open to all."""

EXPERTS: dict[str, Any] = SMALL | {
    "models": [
        {
            "name": "Team/Moe-1.5",
            "model": "/models/moe",
            "device": "cpu",
            "experts": {"placement": "service", "num_hosts": 3, "max_hosts": 5},
            "speculation": {
                "drafters": ["draft_model"],
                "draft": {"model": "/models/draft", "max_replicas": 2},
            },
        }
    ],
    "kubernetes": {"volumes": [{"folder": "/models", "claim": "models"}]},
}
"""A mixture of experts with hosts and draft replicas."""


def example() -> dict[str, Any]:
    """The one that is shipped."""
    found: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return found


def rendering(sections: dict[str, Any]) -> Rendering:
    """As `coterie manifests` makes it."""
    config = Config.model_validate(sections)
    return Rendering(config.model_dump(mode="json", exclude_unset=True), config.kubernetes)


def objects(sections: dict[str, Any]) -> list[dict[str, Any]]:
    """All that the base has."""
    return [
        made
        for path, text in rendering(sections).files().items()
        if path.startswith("base/") and not path.endswith("kustomization.yaml")
        for made in yaml.safe_load_all(text)
    ]


def of_kind(made: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of them."""
    return [each for each in made if each["kind"] == kind]
