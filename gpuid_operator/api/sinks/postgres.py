"""The settings of the sink `postgres`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.settings import SecretKeyRef, SinkSettings, Text

_TABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.]*$"


class SSLMode(StrEnum):
    """Values of libpq's sslmode."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class PostgresSink(SinkSettings):
    """Inserts records into a PostgreSQL table that has gpuid's columns and more."""

    PATTERNS: ClassVar = {
        _TABLE_PATTERN: "must be the name of a table such as serials or fleet.serials:"
        " letters, digits and underscores",
    }

    host: Text
    """Host name or IP address of the server."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the server (default 5432)."""
    database: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the database."""
    ssl_mode: SSLMode | None = None
    """libpq's sslmode (default require)."""
    ca_secret_ref: SecretKeyRef | None = None
    """Secret with a PEM bundle of certificate authorities for verify-ca and verify-full."""
    user_secret_ref: SecretKeyRef | None = None
    """Secret with the user name."""
    password_secret_ref: SecretKeyRef | None = None
    """Secret with the password."""
    table: Annotated[str, Field(min_length=1, max_length=127, pattern=_TABLE_PATTERN)] | None = None
    """Name of the table, optionally with its schema, such as `fleet.serials` (default
    `serials`)."""
    auto_migrate: bool | None = None
    """Whether to create or extend the table and its views (default false: report the SQL to
    run)."""
