"""The options by which a command enters a cluster that has keys or speaks TLS."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from coterie.security import Security

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--api-key",
        envvar="COTERIE_API_KEY",
        show_envvar=True,
        metavar="KEY",
        help="Says who asks. The variable keeps it out of the list of processes.",
    ),
    click.option(
        "--tls",
        is_flag=True,
        envvar="COTERIE_TLS",
        show_envvar=True,
        help="Speak TLS, trusting the authorities that gRPC knows.",
    ),
    click.option(
        "--ca-file",
        type=_FILE,
        envvar="COTERIE_CA_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Speak TLS, trusting this authority (PEM).",
    ),
    click.option(
        "--client-certificate-file",
        type=_FILE,
        envvar="COTERIE_CLIENT_CERTIFICATE_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Certificate that the cluster asks clients for (PEM).",
    ),
    click.option(
        "--client-key-file",
        type=_FILE,
        envvar="COTERIE_CLIENT_KEY_FILE",
        show_envvar=True,
        metavar="FILE",
        help="Private key of that certificate (PEM).",
    ),
)


_TLS_NAMES = ("tls", "ca_file", "client_certificate_file", "client_key_file")


def security_for(url: str, security: Security) -> Security:
    """What of it counts for this URL: a plain one takes no TLS from variables, which are
    there for all clusters. Where the command line asks for TLS, all of it stays.
    """
    context = click.get_current_context()
    asked = (context.get_parameter_source(name) for name in _TLS_NAMES)
    if not url.startswith("http://") or ParameterSource.COMMANDLINE in asked:
        return security
    return Security(api_key=security.api_key)


def security_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it receives them as `security`."""

    @functools.wraps(command)
    def gathered(
        *,
        api_key: str | None,
        tls: bool,
        ca_file: Path | None,
        client_certificate_file: Path | None,
        client_key_file: Path | None,
        **rest: Any,
    ) -> None:
        security = Security(
            api_key=api_key,
            tls=tls,
            ca_file=ca_file,
            client_certificate_file=client_certificate_file,
            client_key_file=client_key_file,
        )
        command(security=security, **rest)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered
