"""An expert host as a process of its own, without Ray: `python -m deployments.experts.host`.

See `deployments.link_hosts.process`. Its settings are `model_path` beside the fields of
`HostSettings`, of which `link` is an object too.
"""

import sys
from pathlib import Path
from typing import Any

from deployments.experts.host.host import ExpertHost
from deployments.experts.host.settings import HostSettings
from deployments.link_hosts.process import serve
from experts.transport.link import LinkSettings


def settings_of(fields: dict[str, Any]) -> HostSettings:
    """From JSON types."""
    folder, link = Path(fields["unix_folder"]), LinkSettings(**fields.get("link", {}))
    return HostSettings(**fields | {"unix_folder": folder, "link": link})


def open_host(fields: dict[str, Any]) -> ExpertHost:
    """From JSON types."""
    return ExpertHost.open(Path(fields.pop("model_path")), settings_of(fields))


if __name__ == "__main__":
    sys.exit(serve(open_host, sys.stdin.fileno()))
