"""Whether an address can be reached from other machines."""

import ipaddress


def is_loopback(host: str) -> bool:
    """The host, a name or an IP address without a port, is this very machine.

    Names other than `localhost` are not looked up: they count as elsewhere.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
