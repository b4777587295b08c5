"""Whether gateways and engines are told of a prefix index, and of which."""

from pathlib import Path

import pytest

from cache.settings import CacheSection
from deployments import metadata_server
from deployments.app import index_arguments
from deployments.prefix_store import PrefixStore
from deployments.settings import ClusterSection

URL = "redis://index.example:6379"


def test_a_server_that_is_named_is_used_wherever_the_cluster_is(tmp_path: Path) -> None:
    for address in (None, "auto"):
        cluster = ClusterSection(address=address, state_dir=tmp_path, app_name="app")
        found = index_arguments(CacheSection(url=URL, lease_s=7), cluster)
        assert found is not None
        assert (found["url"], found["app_name"]) == (URL, "app")
        store = PrefixStore.from_arguments(found)
        assert store is not None
        assert store.section == CacheSection(url=URL, lease_s=7)


def test_without_a_server_of_either_kind_there_is_no_index(tmp_path: Path) -> None:
    for address in (None, "auto"):
        cluster = ClusterSection(address=address, state_dir=tmp_path)
        assert index_arguments(CacheSection(), cluster) is None
    assert PrefixStore.from_arguments(None) is None


def test_a_local_cluster_has_the_server_that_was_started_for_it(tmp_path: Path) -> None:
    cluster = ClusterSection(state_dir=tmp_path)
    server = metadata_server.ensure(cluster, CacheSection())
    try:
        found = index_arguments(CacheSection(), cluster)
        assert found is not None
        assert found["url"] == server.url
        assert index_arguments(CacheSection(enabled=False), cluster) is None
    finally:
        metadata_server.stop(cluster)


@pytest.mark.parametrize("url", [None, URL])
def test_an_index_that_is_switched_off_is_none(tmp_path: Path, url: str | None) -> None:
    cluster = ClusterSection(state_dir=tmp_path)
    assert index_arguments(CacheSection(enabled=False, url=url), cluster) is None
