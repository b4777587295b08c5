"""Keys: their form, what is kept of them, and who they stand for."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.security.api_keys import (
    KeyEntry,
    KeyRing,
    new_key,
    sha256_of,
    without_keys,
)
from infra.errors import ConfigError, UnauthenticatedError

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def entry(key: str, tenant: str = "acme", **fields: object) -> KeyEntry:
    return KeyEntry.model_validate({"tenant": tenant, "sha256": sha256_of(key)} | fields)


def test_a_key_has_a_prefix_and_256_random_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"ct-[A-Za-z0-9_-]{43}", key) for key in keys)


def test_a_key_stands_for_its_tenant() -> None:
    first, second = new_key(), new_key()
    ring = KeyRing([entry(first, "acme"), entry(second, "globex", is_operator=True)])
    assert len(ring) == 2
    assert ring.grant_of(first, NOW.timestamp())[:2] == ("acme", False)
    assert ring.grant_of(second, NOW.timestamp())[:2] == ("globex", True)


@given(st.text(alphabet="ct-\x00é\ud800", max_size=300))
def test_nothing_else_is_a_key(text: str) -> None:
    ring = KeyRing([entry(new_key())])
    with pytest.raises(UnauthenticatedError, match="not valid"):
        ring.grant_of(text, NOW.timestamp())


def test_the_digest_of_a_key_is_no_key() -> None:
    key = new_key()
    with pytest.raises(UnauthenticatedError):
        KeyRing([entry(key)]).grant_of(sha256_of(key), NOW.timestamp())


def test_a_key_ends_at_its_time() -> None:
    key = new_key()
    ring = KeyRing([entry(key, expires=NOW)])
    last = (NOW - timedelta(seconds=1)).timestamp()
    assert ring.grant_of(key, last).tenant == "acme"
    with pytest.raises(UnauthenticatedError, match="has expired"):
        ring.grant_of(key, NOW.timestamp())


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert entry("k", expires="2027-01-01").expires == NOW
    assert entry("k", expires="2027-01-01T02:00:00+02:00").expires == NOW


def test_a_key_given_twice_is_refused() -> None:
    key = new_key()
    with pytest.raises(ConfigError, match=f"{sha256_of(key)[:12]} is there twice"):
        KeyRing([entry(key), entry(key, "globex")])


def test_an_error_tells_nothing_of_the_key() -> None:
    key = new_key()
    with pytest.raises(UnauthenticatedError) as failed:
        KeyRing([]).grant_of(key, NOW.timestamp())
    assert key not in repr(failed.value)


@pytest.mark.parametrize(
    "name",
    [
        "product-recommendations-team",
        "project-manager-of-north-america",
        "ct-scanner-team-of-the-clinic",
    ],
)
def test_a_name_with_the_prefix_of_keys_in_it_is_no_key(name: str) -> None:
    assert entry(new_key(), name, label=name).tenant == name


@pytest.mark.parametrize("name", ["product-recommendations-team", "act-of-a-long-long-tenant"])
def test_a_message_shows_a_name_that_has_the_prefix_of_keys_in_a_word(name: str) -> None:
    assert without_keys(f"no tenant {name}") == f"no tenant {name}"


@pytest.mark.parametrize("before", ["", "acme-", "acme.", "for "])
def test_a_key_is_neither_a_tenant_nor_part_of_a_label(before: str) -> None:
    key = new_key()
    with pytest.raises(ValueError, match="is a key, and would be seen"):
        entry(key, label=before + key)
    with pytest.raises(ValueError, match="is a key, and would be seen"):
        entry(key, "acme." + key)


@pytest.mark.parametrize("before", ["", "'", "key="])
@pytest.mark.parametrize("num_chars", [46, 24])
def test_a_message_shows_no_key_and_not_most_of_one(before: str, num_chars: int) -> None:
    assert without_keys(f"{before}{new_key()[:num_chars]}") == f"{before}ct-..."


def test_a_message_shows_no_key_after_the_letter_of_a_line_break() -> None:
    assert without_keys(repr("\n" + new_key())) == r"'\nct-...'"
