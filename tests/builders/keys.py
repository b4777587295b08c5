"""Files of API keys."""

from collections.abc import Iterable
from pathlib import Path

from deployments.gateway.security.api_keys import KeyEntry, new_key, sha256_of
from deployments.gateway.security.key_file import changing


def add_key(file: Path, tenant: str) -> str:
    """A new key of the tenant, in the file from here on."""
    key = new_key()
    with changing(file) as entries:
        entries.append(KeyEntry(tenant=tenant, sha256=sha256_of(key)))
    return key


def write_keys(file: Path, tenants: Iterable[str]) -> dict[str, str]:
    """A key of each tenant, by its name."""
    return {tenant: add_key(file, tenant) for tenant in tenants}
