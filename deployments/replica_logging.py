"""How log records of our rooms leave a Serve replica.

Serve gives its logger `ray.serve` a file of the replica, in the format and from the
level that the deployment's `logging_config` names. Our rooms' loggers, and those of
what runs beside them, write there too, so that one file, in one form, has everything
a replica says.
"""

import logging
from typing import Any

from infra.telemetry.settings import TelemetrySection

LOGGERS = ("cache", "deployments", "experts", "infra", "router", "opentelemetry", "uvicorn")


def logging_config(section: TelemetrySection) -> dict[str, Any]:
    """The `logging_config` of a Serve deployment."""
    return {"encoding": section.log_format.upper(), "log_level": section.log_level}


def join_serve_log() -> None:
    """Let our rooms' loggers write where Serve's does; call it in the replica."""
    serve_logger = logging.getLogger("ray.serve")
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = list(serve_logger.handlers)
        logger.setLevel(serve_logger.level)
        logger.propagate = False
