"""Hosts for each test, and what must not be left behind."""

from tests.experts.transport.conftest import nothing_is_left, socket_folder

__all__ = ["nothing_is_left", "socket_folder"]
