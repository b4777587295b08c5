"""What our loggers write goes where Serve's does, whatever else sets up logging."""

import json
import logging
import logging.config
from collections.abc import Iterator
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path

import pytest
import uvicorn
from ray._common.formatters import JSONFormatter

from deployments.replica_logging import LOGGERS, ServeLog, logging_config
from infra.telemetry.settings import TelemetrySection


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Serve's logger as in a replica that writes JSON; all loggers as before after it."""
    loggers = [logging.getLogger(name) for name in ("ray.serve", *LOGGERS)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    file = RotatingFileHandler(tmp_path / "replica.log", maxBytes=10**6)
    file.setFormatter(JSONFormatter())
    serve_logger = logging.getLogger("ray.serve")
    serve_logger.handlers = [MemoryHandler(1, target=file)]
    serve_logger.setLevel("INFO")
    yield tmp_path
    file.close()
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def written(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in folder.iterdir() for line in file.open()]


def test_a_rooms_record_is_in_the_replicas_file_with_its_fields(folder: Path) -> None:
    ServeLog()
    logging.getLogger("deployments.gateway.link").info("hello %d", 1, extra={"model": "m"})
    logging.getLogger("infra.telemetry").debug("below the level")
    (record,) = written(folder)
    assert (record["message"], record["model"]) == ("hello 1", "m")


def test_records_come_through_a_library_that_closes_all_handlers(folder: Path) -> None:
    serve_log = ServeLog()
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logging.getLogger("deployments").info("while it loads")
    assert written(folder) == []
    serve_log.restore()
    logging.getLogger("deployments").info("after it")
    assert [r["message"] for r in written(folder)] == ["while it loads", "after it"]


def test_uvicorn_as_the_doors_configure_it_leaves_the_handlers_open(folder: Path) -> None:
    ServeLog()
    uvicorn.Config(lambda: None, log_config=None, log_level="warning")
    logging.getLogger("deployments").info("still there")
    assert len(written(folder)) == 1


def test_the_section_says_form_and_level() -> None:
    section = TelemetrySection(log_format="json", log_level="DEBUG")
    assert logging_config(section) == {"encoding": "JSON", "log_level": "DEBUG"}
