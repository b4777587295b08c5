"""What an engine replica does for its drafts: word of the draft replicas that come and go,
in a folder where the engine's process finds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.drafts.tier_folder import FOLDER_VARIABLE
from deployments.experts.host_feed import follow_hosts
from deployments.experts.tier_folder import TierFolder


class EngineDrafts:
    """Of one engine replica; `replicas` is the handle of its draft replicas."""

    def __init__(self, scratch: Path, secret: str, replicas: DeploymentHandle[Any]) -> None:
        path = scratch / "drafts"
        path.mkdir(mode=0o700)
        self._folder = TierFolder(path)
        self._folder.write_secret(secret)
        self._folder.write_hosts([])
        follow_hosts(replicas, self._folder.write_hosts)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that the engine's processes must start with."""
        return {FOLDER_VARIABLE: str(self._folder.path)}
