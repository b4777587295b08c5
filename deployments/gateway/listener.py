"""Ports that all gateway replicas of a node share: the kernel spreads connections."""

import errno
import socket

from infra.errors import ConfigError


def shared_socket(host: str, port: int, key: str) -> socket.socket:
    """A listening socket with SO_REUSEPORT; `key` of the configuration gave the port.

    Raises ConfigError where it cannot be had, such as when another program has it.
    """
    listener = _bound_socket(host, port, key)
    listener.listen(2048)
    return listener


def check_port(host: str, port: int, key: str) -> None:
    """Raises the ConfigError of `shared_socket`, where there is one."""
    _bound_socket(host, port, key).close()


def grpc_address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    bare = _bare(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def _bound_socket(host: str, port: int, key: str) -> socket.socket:
    bare = _bare(host)
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((bare, port))
    except OSError as error:
        bound.close()
        raise _refused(error, grpc_address(host, port), key, port) from error
    return bound


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _refused(error: OSError, address: str, key: str, port: int) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{key}: port {port} is taken by another program; "
            "end it or choose another port in the configuration"
        )
    return ConfigError(
        f"{key}: cannot listen on {address}: {error.strerror}; "
        "choose another host or port in the configuration"
    )
