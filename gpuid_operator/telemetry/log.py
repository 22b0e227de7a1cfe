"""The log: one JSON object per line on stdout, also for libraries, warnings and tracebacks.

`configure` once, then `log = get_logger(__name__)` and `log.info("what happened", node=name)`.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Literal, TextIO

import orjson

from gpuid_operator.telemetry.line import SERVICE, dump, fields_of, text
from gpuid_operator.telemetry.redact import (
    SecretsInUse,
    may_hold_secret,
    redact,
    register_secret,
)

__all__ = [
    "Format",
    "Level",
    "Logger",
    "SecretsInUse",
    "configure",
    "get_logger",
    "register_secret",
    "write_records",
]

Level = Literal["debug", "info", "warn", "error"]
Format = Literal["json", "text"]

RECORD_MESSAGE: Final = "gpu serial number reading"
"""`msg` of a delivered record's line, as in gpuid."""

_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


class Logger:
    """A named logger whose methods take the line's fields as keyword arguments."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def debug(self, msg: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        self._write(logging.INFO, msg, fields)

    def warning(self, msg: str, /, **fields: object) -> None:
        self._write(logging.WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        self._write(logging.ERROR, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """An error line about the exception that is being handled, as `error` and `stack`."""
        self._write(logging.ERROR, msg, fields, exc_info=True)

    def _write(
        self, level: int, msg: str, fields: dict[str, object], *, exc_info: bool = False
    ) -> None:
        if self._log.isEnabledFor(level):
            # Two frames are ours: this one and that of info(), error(), …
            self._log.log(level, msg, exc_info=exc_info, stacklevel=3, extra={"fields": fields})


def get_logger(name: str) -> Logger:
    return Logger(name)


def configure(level: Level, format: Format, descriptor: int = 1) -> None:  # noqa: A002
    """Write every line of this process to `descriptor`. May be called again.

    Python code then writes nothing to stderr, and a print does not break the format: what is
    printed to sys.stdout or sys.stderr becomes lines, as do warnings and uncaught exceptions.
    """
    _output.descriptor = descriptor
    root = logging.getLogger()
    root.handlers[:] = [_Handler(as_text=format == "text")]
    root.setLevel(_LEVELS[level])
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread
    sys.stdout = _Printed("stdout", logging.INFO)
    sys.stderr = _Printed("stderr", logging.WARNING)


def write_records(records: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON line per record, whatever the level and the format of the log, in one write.

    A record's `source` and `time` replace the line's own. Nothing is masked: a record is data,
    built from history alone. Raises OSError when the write fails.
    """
    head = {"time": "", "level": "INFO", "source": "", "msg": RECORD_MESSAGE, "service": SERVICE}
    _output.write(b"".join(dump({**head, **record}) + b"\n" for record in records))


class _Output:
    """Writes lines straight to the descriptor, one at a time, under one lock.

    Without Python's buffer no half line stays behind when the reader of a pipe is gone, and the
    interpreter has nothing to flush at its end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.descriptor = 1

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises OSError, such as for a broken pipe or a full disk."""
        with self._lock:
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[os.write(self.descriptor, rest) :]
                except BlockingIOError:
                    # The other end made the pipe non-blocking: wait until it has read.
                    select.select([], [self.descriptor], [])


_output: Final = _Output()


class _Handler(logging.Handler):
    """Writes each record of the standard library as one line."""

    def __init__(self, *, as_text: bool) -> None:
        super().__init__()
        self._as_text = as_text
        self._second = -1
        self._second_text = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = dump({"time": self._now(), **fields_of(record)})
        if may_hold_secret(line):
            line = dump(redact(orjson.loads(line)))
        if self._as_text:
            line = text(orjson.loads(line))
        try:
            _output.write(line + b"\n")
        except OSError:
            # Nobody reads stdout any more. The work goes on, and there is nowhere to say so.
            return

    def _now(self) -> str:
        second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanosecond:09d}Z"


class _Printed(io.TextIOBase):
    """Replaces sys.stdout and sys.stderr: what is printed becomes lines of the log."""

    def __init__(self, name: str, level: int) -> None:
        self._log = logging.getLogger(name)
        self._level = level
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, printed: str, /) -> int:
        *lines, self._rest = (self._rest + printed).split("\n")
        for line in lines:
            if line.strip():
                self._log.log(self._level, "%s", line, stacklevel=2)
        return len(printed)

    def flush(self) -> None:
        if self._rest:
            self.write("\n")


_hooks: Final = logging.getLogger(__name__)
_warnings: Final = logging.getLogger("py.warnings")


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if not _warnings.isEnabledFor(logging.WARNING):
        return
    fields = {"fields": {"category": category.__name__}}
    # Made by hand, so that the source of the line is the code that the warning is about.
    record = _warnings.makeRecord(
        _warnings.name, logging.WARNING, filename, lineno, str(message), (), None, extra=fields
    )
    _warnings.handle(record)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _hooks.error("uncaught exception", exc_info=(kind, error, trace), extra={"fields": {}})


def _log_thread(hook: threading.ExceptHookArgs) -> None:
    fields = {"thread": hook.thread.name if hook.thread else ""}
    _hooks.error("uncaught exception in thread", exc_info=hook.exc_value, extra={"fields": fields})


def _log_unraisable(hook: sys.UnraisableHookArgs) -> None:
    _hooks.error(
        hook.err_msg or "ignored exception",
        exc_info=hook.exc_value,
        extra={"fields": {"object": repr(hook.object)}},
    )
