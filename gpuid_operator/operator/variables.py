"""Parsers for the values of environment variables, and the error for an invalid one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

from pydantic import BeforeValidator, ValidationError, ValidationInfo

from gpuid_operator.api.sinks import HTTPSink, PostgresSink, S3Sink
from gpuid_operator.api.values import format_duration, parse_duration

SECRETS: Final = frozenset(
    {
        "HTTP_AUTH_TOKEN",
        "POSTGRES_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)
"""Variables whose value is never shown."""

_SHOWN: Final = 120
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})

T = TypeVar("T")


class SettingsError(Exception):
    """An environment variable is invalid or missing. The text is one line.

    `value` is None for a missing variable. The text does not show the values of secrets, nor user
    and password in a URL.
    """

    def __init__(self, variable: str, value: object, allowed: str) -> None:
        self.variable = variable
        self.allowed = allowed
        super().__init__(_sentence(variable, value, allowed))


def reads(parse: Callable[[str], Any]) -> BeforeValidator:
    """A field whose variable `parse` reads. Its ValueErrors say which values are allowed."""

    def read(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            variable = (info.field_name or "").upper()
            # Not chained: a traceback would show the value.
            raise SettingsError(variable, value, str(error)) from None

    return BeforeValidator(read)


def boolean(text: str) -> bool:
    """A boolean as in Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"a whole number from {low} to {high}")

    return parse


def port(text: str) -> int:
    return whole(1, 65535)(text)


def rate(text: str) -> float:
    """A number of requests per second, as Go's strconv.ParseFloat for finite ones."""
    if re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        number = float(text)
        if number > 0 and math.isfinite(number):
            return number
    raise ValueError("a number greater than 0")


def duration(*, low: timedelta, high: timedelta) -> Callable[[str], timedelta]:
    """A Go duration within bounds, inclusive."""

    def parse(text: str) -> timedelta:
        value = parse_duration(text)
        if low <= value <= high:
            return value
        raise ValueError(f"a duration from {format_duration(low)} to {format_duration(high)}")

    return parse


def one_of(*words: str, **also: str) -> Callable[[str], str]:
    """One of these words, in upper or lower case; `also` maps other spellings to them."""

    def parse(text: str) -> str:
        word = text.lower()
        word = also.get(word, word)
        if word in words:
            return word
        raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")

    return parse


def dns_label(text: str) -> str:
    if _DNS_LABEL.fullmatch(text):
        return text
    raise ValueError(
        "at most 63 lower-case letters, digits and hyphens, not starting or ending with a hyphen"
    )


def dns_subdomain(text: str) -> str:
    if len(text) <= 253 and all(map(_DNS_LABEL.fullmatch, text.split("."))):
        return text
    raise ValueError("names of lower-case letters, digits and hyphens, separated by dots")


def words(text: str) -> str:
    """Text on one line that fits a column of gpuid's table."""
    if len(text) <= 255 and text.isprintable():
        return text
    raise ValueError("at most 255 characters on one line")


def script(text: str) -> str:
    if len(text) <= 16_384:
        return text
    raise ValueError("a shell script of at most 16384 characters")


def credential(text: str) -> str:
    if text.isprintable():
        return text
    raise ValueError("text without line breaks and control characters")


def endpoint(text: str) -> str:
    return _as_field(
        lambda: HTTPSink(url=text).url, "a URL such as https://host/path, without user and password"
    )


def s3_endpoint(text: str) -> str:
    return _as_field(
        lambda: S3Sink(bucket="any", endpoint=text).endpoint or "",
        "a URL such as https://host:port, without user, password and path",
    )


def host(text: str) -> str:
    if re.fullmatch(r"[^\s@=?,]{1,253}", text) and "://" not in text:
        return text
    raise ValueError("the name or address of one server, without port, user and password")


def database(text: str) -> str:
    return _as_field(
        lambda: PostgresSink(host="any", database=text).database, "at most 63 characters"
    )


def table(text: str) -> str:
    return _as_field(
        lambda: PostgresSink(host="any", database="any", table=text).table or "",
        "a table name of letters, digits and underscores, optionally after a schema and a dot",
    )


def bucket(text: str) -> str:
    return _as_field(
        lambda: S3Sink(bucket=text).bucket,
        "the name of a bucket: letters, digits, hyphens, underscores and dots",
    )


def key_prefix(text: str) -> str:
    return _as_field(
        lambda: S3Sink(bucket="any", prefix=text.strip("/")).prefix or "",
        "at most 512 characters",
    )


def partition(text: str) -> str:
    return _as_field(
        lambda: S3Sink(bucket="any", partition=text.strip("/")).partition or "",
        "a pattern such as year=%Y/month=%m/day=%d/hour=%H,"
        " with the directives %Y %m %d %H %M %S %j %y %V and %%",
    )


def _as_field(build: Callable[[], T], allowed: str) -> T:
    """What the model of the sink accepts, so that the built-in policy is always valid."""
    try:
        return build()
    except ValidationError:
        raise ValueError(allowed) from None


def _sentence(variable: str, value: object, allowed: str) -> str:
    if value is None:
        return f"{variable} is not set: {allowed}"
    if variable in SECRETS:
        return f"{variable} has an invalid value (not shown): expected {allowed}"
    text = str(value)
    if "@" in text:
        text = f"…@{text.rpartition('@')[2]}"
    if "://" in text or "@" in text:
        text = text.partition("?")[0]
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}…"
    return f"{variable}={json.dumps(text, ensure_ascii=False)} is invalid: expected {allowed}"
