"""One line of the log: from a record of the standard library to JSON or text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

SERVICE: Final = "gpuid"

_BARE: Final = frozenset(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&'()*+,-./:;<>?@[]^_`{|}~"
)
_CODE_ROOTS: Final = (
    f"{Path(__file__).parents[2]}/",
    "/site-packages/",
    f"/python{sys.version_info[0]}.{sys.version_info[1]}/",
)
_sources: dict[str, tuple[str, str]] = {}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Every field of the line but its time."""
    return {
        "level": _level(record.levelno),
        "source": _source(record),
        "msg": _message(record),
        "service": SERVICE,
        **_own_fields(record),
    }


def dump(line: Mapping[str, object]) -> bytes:
    """The line as JSON, without a line end. What JSON has no type for becomes text."""
    try:
        return orjson.dumps(line, default=_text_of)
    except orjson.JSONEncodeError:
        # Bytes of the environment that are not UTF-8 are lone surrogates in Python, which orjson
        # rejects. They become question marks.
        return json.dumps(line, default=_text_of, ensure_ascii=False).encode("utf-8", "replace")


def text(line: Mapping[str, Any]) -> bytes:
    """The line as slog writes text: key=value, quoted where its end would not be clear."""
    source = line["source"]
    line = {**line, "source": f"{source['file']}:{source['line']}"}
    return " ".join(f"{name}={_text_value(value)}" for name, value in line.items()).encode()


def describe(error: BaseException) -> str:
    """Type and text of an exception, on one line of a log."""
    words = str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "ERROR"
    if number >= logging.WARNING:
        return "WARN"
    return "INFO" if number >= logging.INFO else "DEBUG"


def _source(record: logging.LogRecord) -> dict[str, object]:
    """Function and file as one would import and open them, without this machine's directories."""
    known = _sources.get(record.pathname)
    if known is None:
        file = record.pathname
        for root in _CODE_ROOTS:
            file = file.rpartition(root)[2]
        module = file.removesuffix(".py").removesuffix("/__init__").strip("/").replace("/", ".")
        known = _sources[record.pathname] = (file, module)
    file, module = known
    return {"function": f"{module}.{record.funcName}", "file": file, "line": record.lineno}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A library's format string does not fit its arguments. The line says both: an error of the
        # log must not become one of the code that logs.
        return f"{record.msg} {record.args}"


def _own_fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] | None = record.__dict__.get("fields")
    if fields is None:
        fields = {"logger": record.name}  # a library's line
    if record.exc_info and record.exc_info[1] is not None:
        stack = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        return {"error": describe(record.exc_info[1]), **fields, "stack": stack}
    return fields


def _text_of(value: object) -> str:
    return describe(value) if isinstance(value, BaseException) else str(value)


def _text_value(value: Any) -> str:
    words = value if isinstance(value, str) else orjson.dumps(value).decode()
    if words and _BARE.issuperset(words):
        return words
    return orjson.dumps(words).decode()
