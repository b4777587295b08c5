"""News of running engine replicas, from Serve's routers to whoever listens here.

One feed a process: `replica_watch.ReplicaWatch` publishes, the gateway listens.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

Metadata = Mapping[str, Any]
Listener = Callable[[Mapping[str, Metadata]], None]

_lock = threading.Lock()
_listeners: dict[str, Listener] = {}
_latest: dict[str, Mapping[str, Metadata]] = {}


def listen(deployment: str, listener: Listener) -> None:
    """Call `listener` with all running replicas (id to metadata) at each change.

    It is called at once if they are known, from whatever thread Serve's router
    runs in; it must not block.
    """
    with _lock:
        _listeners[deployment] = listener
        latest = _latest.get(deployment)
    if latest is not None:
        listener(latest)


def publish(deployment: str, replicas: Mapping[str, Metadata]) -> None:
    """Tell the deployment's listener, and keep the news for a later one."""
    with _lock:
        _latest[deployment] = replicas
        listener = _listeners.get(deployment)
    if listener is not None:
        listener(replicas)
