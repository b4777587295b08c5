"""News of a model's expert hosts, as Ray Serve tells of its replicas."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.gateway import replica_feed
from experts.directory import HostCard
from infra.errors import ConfigError

log = logging.getLogger(__name__)

CARD_KEY = "expert_host"
"""Of a replica's metadata."""


def follow_hosts(
    handle: DeploymentHandle[Any], on_hosts: Callable[[Sequence[HostCard]], None]
) -> None:
    """Call with all running hosts, at once if they are known and at each change, from a
    thread of Serve's. Waits for nothing; there may be no host yet."""

    def on_replicas(replicas: Mapping[str, replica_feed.Metadata]) -> None:
        on_hosts(cards_of(replicas))

    replica_feed.listen(handle.deployment_name, on_replicas)
    # A handle has no router until its first call.
    handle.status.remote()


def cards_of(replicas: Mapping[str, replica_feed.Metadata]) -> Sequence[HostCard]:
    """Those replicas that have said who they are, in the order of their names."""
    found = []
    for name, metadata in replicas.items():
        try:
            found.append(HostCard.of(metadata[CARD_KEY]))
        except (KeyError, ConfigError):
            log.warning("the replica %s does not say how its expert host is reached", name)
    return sorted(found, key=lambda card: card.host)
