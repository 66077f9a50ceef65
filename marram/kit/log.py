"""Logs: one event name and fields, no prose. JSON lines on stderr, text on a terminal. Never payloads, keys or tokens.

Fields of a line: t (UTC, milliseconds), level, event, logger, fields. Standard `logging` carries it, so that libraries
that log land in the same stream.
"""

import json
import logging
import sys
import time
from typing import Final, TextIO

MAX_TEXT: Final = 2_000  # characters of one field, of what strangers cause
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Logger:
    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        if self._log.isEnabledFor(logging.DEBUG):
            self._log.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: object) -> None:
        self._log.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        self._log.warning(event, extra={"fields": fields})

    def error(self, event: str, *, exc_info: BaseException | bool | None = None, **fields: object) -> None:
        self._log.error(event, exc_info=exc_info, extra={"fields": fields})


class Sparing:
    """For events that strangers can cause: so many lines a second of each event, and so much of each text; the next line says
    how many were left out."""

    def __init__(self, to: Logger, per_s: int = 20) -> None:
        self._to, self._per_s = to, per_s
        self._events: dict[str, tuple[float, int, int]] = {}  # by event: its second's begin, lines in it, left out

    def info(self, event: str, **fields: object) -> None:
        began, lines, left_out = self._events.get(event, (0.0, 0, 0))
        now = time.monotonic()
        if now - began >= 1.0:
            began, lines = now, 0
        if lines >= self._per_s:
            self._events[event] = (began, lines, left_out + 1)
            return
        self._events[event] = (began, lines + 1, 0)
        fields = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
        if left_out:
            fields["left_out"] = left_out
        self._to.info(event, **fields)


def logger(name: str) -> Logger:
    return Logger(name)


def setup(*, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (default stderr) from `level` up. Called once, by a composition root."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Text() if target.isatty() else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "t": _stamp(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        # ensure_ascii: control characters and ESC of untrusted text cannot reach a terminal
        return json.dumps(line, default=str, separators=(",", ":"))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", None) or {}
        tail = "".join(f" {key}={json.dumps(value, default=str)}" for key, value in fields.items())
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        message = record.getMessage().encode("unicode_escape").decode()
        return f"{_stamp(record.created)[11:23]} {record.levelname.lower():7} {message}{tail}{trace}"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
