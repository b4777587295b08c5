"""How log records of our rooms leave a Serve replica.

Serve gives its logger `ray.serve` a file of the replica, in the format and from the
level that the deployment's `logging_config` names. Our rooms' loggers, and those of
what runs beside them, write there too, so that one file, in one form, has everything
a replica says.
"""

import logging
from logging.handlers import MemoryHandler
from typing import Any

from infra.telemetry.settings import TelemetrySection

LOGGERS = ("cache", "deployments", "experts", "infra", "router", "opentelemetry", "uvicorn")


def logging_config(section: TelemetrySection) -> dict[str, Any]:
    """The `logging_config` of a Serve deployment."""
    return {"encoding": section.log_format.upper(), "log_level": section.log_level}


class ServeLog:
    """Serve's log of this replica, joined by our loggers from the construction on.

    Libraries that configure `logging` by a dictionary, as vLLM does when it is
    imported and when an engine starts, close all handlers of the process. Serve's
    then keep their records to themselves, until `restore`.
    """

    def __init__(self) -> None:
        serve_logger = logging.getLogger("ray.serve")
        buffers = [h for h in serve_logger.handlers if isinstance(h, MemoryHandler)]
        self._buffer_to_file = {buffer: buffer.target for buffer in buffers}
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers = list(serve_logger.handlers)
            logger.setLevel(serve_logger.level)
            logger.propagate = False

    def restore(self) -> None:
        """Let closed handlers write again, what they have kept first."""
        for buffer, file in self._buffer_to_file.items():
            buffer.setTarget(file)
            buffer.flush()
