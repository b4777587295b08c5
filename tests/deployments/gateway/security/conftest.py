"""A file of keys, and a service whose doors ask for them."""

from pathlib import Path
from typing import NamedTuple

import pytest

from deployments.gateway.security.api_keys import KeyEntry, new_key, sha256_of
from deployments.gateway.security.key_file import changing
from tests.builders.fake_service import FakeService, text_deltas


class Keys(NamedTuple):
    """The file, and the keys whose digests are in it."""

    file: Path
    tenant: str
    operator: str
    expired: str

    def add(self, tenant: str) -> str:
        """A further key in the file."""
        key = new_key()
        with changing(self.file) as entries:
            entries.append(KeyEntry(tenant=tenant, sha256=sha256_of(key)))
        return key


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path / "keys.yaml", new_key(), new_key(), new_key())
    with changing(made.file) as entries:
        entries += [
            KeyEntry(tenant="acme", sha256=sha256_of(made.tenant)),
            KeyEntry(tenant="ops", sha256=sha256_of(made.operator), is_operator=True),
            KeyEntry.model_validate(
                {
                    "tenant": "acme",
                    "sha256": sha256_of(made.expired),
                    "expires": "2020-01-01",
                }
            ),
        ]
    return made


@pytest.fixture
def service() -> FakeService:
    return FakeService(text_deltas("Hel", "lo"))
