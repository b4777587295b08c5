"""One cluster for all files of this folder: over TLS, asking for keys, with tools."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from coterie import Client
from tests.builders.authority import Authority
from tests.builders.cluster import RunningCluster
from tests.builders.keys import write_keys

MODEL = "smollm2-135m-instruct"
EXAMPLES = Path(__file__).parents[3] / "deployments" / "examples"
# float32, since in bfloat16 two tokens can tie and the batch decides.
SECTION = {
    "name": MODEL,
    "model": MODEL,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 256 * 1024**2,
    # Its own template knows no tools.
    "chat_template_file": str(EXAMPLES / "chatml-hermes-tools.jinja"),
    "tool_parser": "hermes",
}
TENANTS: list[dict[str, Any]] = [
    {"name": "first"},
    {"name": "second"},
    {"name": "limited", "requests_per_minute": 2},
]


class Place(NamedTuple):
    """A cluster that asks for keys, over TLS."""

    cluster: RunningCluster
    keys_file: Path
    ca_file: Path
    keys: dict[str, str]

    def client(self, tenant: str, max_retries: int = 2) -> Client:
        """A client of this tenant."""
        return self.client_with(self.keys[tenant], max_retries)

    def client_with(self, key: str | None, max_retries: int = 2) -> Client:
        """A client with this key."""
        port = self.cluster.address.rsplit(":", 1)[1]
        return Client(
            f"localhost:{port}", api_key=key, ca_file=self.ca_file, max_retries=max_retries
        )

    def openai(self, tenant: str) -> OpenAI:
        """OpenAI's own client of this tenant."""
        return OpenAI(
            base_url=self._url,
            api_key=self.keys[tenant],
            max_retries=0,
            http_client=DefaultHttpxClient(verify=self._context),
        )

    def async_openai(self, tenant: str) -> AsyncOpenAI:
        """The other one of OpenAI's own."""
        return AsyncOpenAI(
            base_url=self._url,
            api_key=self.keys[tenant],
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(verify=self._context),
        )

    @property
    def _url(self) -> str:
        return self.cluster.http_url.replace("http://127.0.0.1", "https://localhost") + "/v1"

    @property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder)
    pair = authority.issue("server")
    keys_file = folder / "keys.yaml"
    keys = write_keys(keys_file, [tenant["name"] for tenant in TENANTS])
    gateway = {
        "api_keys_file": str(keys_file),
        "tls": {"certificate_file": str(pair.certificate), "key_file": str(pair.key)},
    }
    with RunningCluster(
        folder, "guarded", gateway=gateway, tenants=TENANTS, models=[SECTION]
    ) as cluster:
        yield Place(cluster, keys_file, authority.file, keys)
