"""A draft host as a process of its own, without Ray: `python -m deployments.drafts.host`.

See `deployments.link_hosts.process`. Its settings are `engine_model` and `draft_model`,
folders, beside the fields of `DraftHostSettings`.
"""

import sys
from pathlib import Path
from typing import Any

from deployments.drafts.host.host import DraftHost
from deployments.drafts.host.settings import DraftHostSettings
from deployments.link_hosts.process import serve
from router.speculation.settings import DraftSection


def settings_of(fields: dict[str, Any]) -> DraftHostSettings:
    """From JSON types."""
    section = DraftSection.model_validate(fields.pop("section"))
    return DraftHostSettings(
        **fields | {"unix_folder": Path(fields["unix_folder"]), "section": section}
    )


def open_host(fields: dict[str, Any]) -> DraftHost:
    """From JSON types."""
    models = Path(fields.pop("engine_model")), Path(fields.pop("draft_model"))
    return DraftHost.open(*models, settings_of(fields))


if __name__ == "__main__":
    sys.exit(serve(open_host, sys.stdin.fileno()))
