"""The log of a command: where it goes, and its two formats."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_QUIET = ("aegis.cli", "aegis.issuer", "aegis.node", "aegis.workers", "aegis_certs")
"""Loggers whose lines of level INFO are for everybody; those of others are details."""

_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def log_to_stderr(level: str = "info", form: str = "text", node_id: str = "") -> None:
    """Sets up the log of this process.

    Args:
        level: The least level that is shown: `debug`, `info`, `warning` or `error`. With `info`,
            details of the mesh, of that level, are left out.
        form: `text`, or `json` for one object a line.
        node_id: The worker that writes the lines.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(node_id) if form == "json" else TextLines(node_id))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("aegis").setLevel(logging.WARNING if level == "info" else number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(number)
    # gRPC's own lines have tracebacks of callers that are gone; its errors remain.
    logging.getLogger("grpc").setLevel(max(number, logging.ERROR))


class TextLines(logging.Formatter):
    """Lines for people: date with zone, the level from WARNING on, and the worker, if any."""

    def __init__(self, node_id: str = "") -> None:
        super().__init__()
        self._prefix = f"{node_id} " if node_id else ""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, and a traceback below it if there is one."""
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        when = datetime.fromtimestamp(record.created).astimezone()
        line = f"{when:%Y-%m-%dT%H:%M:%S%z} {level}{self._prefix}{record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and `node` and `error` if any.

    What a program gave to `extra` is added, unless one of these names is used.
    """

    def __init__(self, node_id: str = "") -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object, on one line."""
        extra = {key: value for key, value in vars(record).items() if key not in _FIELDS}
        line = extra | {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._node_id:
            line["node"] = self._node_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
