"""What a draft host is given beside its models."""

from dataclasses import dataclass

from deployments.link_hosts.settings import LinkHostSettings
from router.speculation.settings import DraftSection


@dataclass(frozen=True, kw_only=True)
class DraftHostSettings(LinkHostSettings):
    """Of one host."""

    section: DraftSection
