"""One line of the log: from a record of the standard library to JSON or text, whatever it holds."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

SERVICE: Final = "gpuid"

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
_MAX_DEPTH: Final = 8
"""Levels of a field that are kept where it cannot be written as it is."""
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
    """The line as JSON, without a line end. Never fails: what JSON cannot hold becomes text."""
    try:
        return orjson.dumps(line, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError:
        # Lone surrogates, integers beyond 64 bits, strange keys, objects that contain themselves.
        return orjson.dumps(_clean(line, _MAX_DEPTH), option=_OPTIONS)


def text(line: Mapping[str, Any]) -> bytes:
    """The line as slog writes text: key=value, quoted where one could not tell where it ends."""
    source = line["source"]
    if isinstance(source, dict) and "line" in source:
        line = {**line, "source": f"{source['file']}:{source['line']}"}
    return " ".join(f"{name}={_text_value(value)}" for name, value in line.items()).encode()


def describe(error: BaseException) -> str:
    """Type and text of an exception, on one line of a log."""
    said = _string(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


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
    except Exception:
        # A format string that does not fit its arguments; say both.
        return f"{_string(record.msg)} {_string(record.args)}"


def _own_fields(record: logging.LogRecord) -> dict[str, object]:
    values = record.__dict__
    fields: dict[str, object] | None = values.get("fields")
    if fields is None:
        # A library's line. Kopf's may name the object that they are about.
        fields = {"logger": record.name}
        reference = values.get("k8s_ref")
        if isinstance(reference, Mapping):
            fields["object"] = {name: value for name, value in reference.items() if value}
    if record.exc_info and record.exc_info[1] is not None:
        stack = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        return {"error": describe(record.exc_info[1]), **fields, "stack": stack}
    if record.stack_info:
        return {**fields, "stack": record.stack_info}
    return fields


def _plain(value: object) -> Any:
    """A JSON value for what orjson does not know by itself."""
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=_string)
    return _string(value)


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping) and depth:
        return {_encodable(k): _clean(member, depth - 1) for k, member in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_clean(member, depth - 1) for member in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    plain = value if isinstance(value, str) else _plain(value)
    return _clean(plain, depth - 1) if depth and not isinstance(plain, str) else _encodable(plain)


def _encodable(value: object) -> str:
    return _string(value).encode("utf-8", "replace").decode()


def _string(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _text_value(value: Any) -> str:
    said = value if isinstance(value, str) else orjson.dumps(value).decode()
    if said and _BARE.issuperset(said):
        return said
    return orjson.dumps(said).decode()
