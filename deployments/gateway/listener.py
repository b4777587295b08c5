"""Ports that all gateway replicas of a node share: the kernel spreads connections."""

import socket

from infra.errors import ConfigError


def shared_socket(host: str, port: int, key: str) -> socket.socket:
    """A listening socket with SO_REUSEPORT; `key` of the configuration gave the port.

    Raises ConfigError where another program has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise port_taken(key, port) from error
    listener.listen(2048)
    return listener


def port_taken(key: str, port: int) -> ConfigError:
    """What to say of a port that cannot be had."""
    return ConfigError(
        f"{key}: port {port} is taken by another program; "
        "end it or choose another port in the configuration"
    )
