"""Strangers at the doors of a real cluster: keys, TLS, limits, and prefixes kept apart."""

import time
from collections.abc import Callable

import httpx2
import openai
import pytest

from coterie import CapacityError, Client, UnauthenticatedError, UnavailableError
from deployments.gateway.security.api_keys import new_key, sha256_of
from deployments.gateway.security.key_file import changing
from tests.builders.keys import add_key
from tests.cluster.guarded.conftest import MODEL, Place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_key_opens_both_doors_over_tls_and_nothing_else_does(place: Place) -> None:
    with place.client("first") as client:
        usage = client.generate_unary("One, two,", max_tokens=3).usage
        assert usage is not None
        assert usage.num_output_tokens == 3
    answer = place.openai("first").completions.create(model=MODEL, prompt="One,", max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    for key in (None, new_key()):
        with place.client_with(key) as client, pytest.raises(UnauthenticatedError):
            client.generate_unary("One, two,", max_tokens=3)
    with (
        Client(place.cluster.address, max_retries=0) as plain,
        pytest.raises(UnavailableError),
    ):
        plain.models()
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(place.cluster.http_url + "/health")


def test_a_tenant_over_its_rate_is_told_when_to_come_again(place: Place) -> None:
    with place.client("limited", max_retries=0) as client:
        for _ in range(2):
            client.generate_unary("One, two,", max_tokens=1)
        with pytest.raises(CapacityError, match="requests per minute") as refused:
            client.generate_unary("One, two,", max_tokens=1)
        assert refused.value.retry_after_s is not None
        assert 0 < refused.value.retry_after_s <= 30
        with pytest.raises(openai.RateLimitError) as limited:
            place.openai("limited").completions.create(model=MODEL, prompt="a", max_tokens=1)
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 31
    with place.client("second") as other:
        other.generate_unary("One, two,", max_tokens=1)


def test_no_tenant_finds_what_another_one_has_put_into_the_cache(place: Place) -> None:
    prompt = list(range(100, 400))

    def num_cached(tenant: str) -> int:
        with place.client(tenant) as client:
            usage = client.generate_unary(prompt, max_tokens=1).usage
        assert usage is not None
        return usage.num_cached_tokens

    assert [num_cached("first"), num_cached("second")] == [0, 0]
    assert num_cached("first") > 200
    assert num_cached("second") > 200


def test_keys_come_and_go_without_a_restart(place: Place) -> None:
    key = add_key(place.keys_file, "second")
    with place.client_with(key) as client:
        assert in_time(lambda: is_let_in(client))
        with changing(place.keys_file) as entries:
            entries[:] = [entry for entry in entries if entry.sha256 != sha256_of(key)]
        assert in_time(lambda: not is_let_in(client))


def is_let_in(client: Client) -> bool:
    try:
        client.models()
    except UnauthenticatedError:
        return False
    return True


def in_time(condition: Callable[[], bool]) -> bool:
    """It comes true within some seconds."""
    end_s = time.monotonic() + 15
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.2)
    return True
