"""The section of the configuration: what it takes, and what it says of the rest."""

from pathlib import Path

import pytest

from cache.settings import CacheSection
from infra.errors import ConfigError
from infra.section_file import parse_section
from infra.strict_yaml import read_yaml


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_section(CacheSection, read_yaml(text, "cache.yaml"))
    return str(caught.value)


def test_the_defaults_hold() -> None:
    section = CacheSection()
    assert (section.enabled, section.url, section.entry_ttl_s) == (True, None, None)


@pytest.mark.parametrize(
    "url",
    [
        "redis://valkey:6379",
        "redis://10.0.0.1",
        "rediss://valkey.example:6380/?db=2",
        "redis://[::1]:6379",
        "unix:///run/valkey/valkey.sock",
        "unix:///run/valkey.sock?db=1",
    ],
)
def test_a_server_is_named_by_its_url(url: str) -> None:
    assert CacheSection(url=url).url == url


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("valkey:6379", "must begin with redis://"),
        ("http://valkey", "must begin with redis://"),
        ("redis://", "names no server"),
        ("unix://", "names no server"),
        ("redis://valkey:port", "no URL"),
        ("redis://valkey?ssl_cert_reqs=none", "has options"),
    ],
)
def test_what_is_no_server_is_refused(url: str, advice: str) -> None:
    assert advice in problem(f"url: {url}")


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter22@valkey", "redis://me:hunter22@valkey", "redis://v?password=hunter22"],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    told = problem(f"url: {url}")
    assert "put them into username and password_file" in told
    assert "hunter22" not in told


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ca_file: ca.pem", "write url as rediss://"),
        ("url: rediss://v\ncertificate_file: c.pem", "give both"),
        ("username: me", "give its url"),
        ("url: redis://v\nusername: me", "username is given without password_file"),
        ("lease_s: 0.1", "lease_s: must be at least 1"),
        ("max_memory: 5", "did you mean max_memory_bytes?"),
    ],
)
def test_what_does_not_fit_together_is_named(text: str, advice: str) -> None:
    assert advice in problem(text)


def test_paths_are_those_of_the_home_directory() -> None:
    section = CacheSection(url="redis://v", password_file=Path("~/secret"))
    assert section.password_file == Path.home() / "secret"


def test_every_key_is_documented() -> None:
    assert [n for n, f in CacheSection.model_fields.items() if not f.description] == []
