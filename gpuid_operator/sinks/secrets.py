"""The credentials of sinks: Secrets in the namespace of the operator, or its environment.

A user who may write a sink must not be able to send any secret anywhere. So a Secret must declare
that it is for sinks and can declare for which hosts, and only the sink of the built-in policy can
use the environment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, Protocol

from gpuid_operator.api.meta import (
    ALLOWED_HOSTS_ANNOTATION,
    ENVIRONMENT_SECRET,
    SINK_SECRET_LABEL,
)
from gpuid_operator.api.secret import SecretData
from gpuid_operator.api.sinks import SecretKeyRef, SecretRef
from gpuid_operator.sinks.base import SecretMissing, SecretNotAllowed, SinkError, Unavailable

MAX_AGE: Final = timedelta(minutes=1)
"""Age after which a Secret is read again."""

_AWS_PREFIX: Final = "AWS_"


class SecretSource(Protocol):
    """Provides values of Secrets. `host` is the host that will receive the value."""

    async def get(self, ref: SecretKeyRef, *, host: str | None) -> str:
        """A value. Raises SecretMissing, SecretNotAllowed, Unavailable."""

    async def get_all(self, ref: SecretRef, *, host: str | None) -> dict[str, str]:
        """All values. Raises SecretMissing, SecretNotAllowed, Unavailable."""

    def invalidate(self) -> None:
        """Read again at the next `get`, because a sink rejected the credentials."""


class KubernetesSecrets:
    """Secrets in the namespace of the operator, each read again after `max_age`.

    `read` returns a Secret by name, or None if it does not exist. If it raises, the result is the
    cached value or, without one, Unavailable. `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[SecretData | None]],
        now: Callable[[], float],
        *,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        self._read = read
        self._max_age = max_age.total_seconds()
        self._now = now
        self._cache: dict[str, tuple[float, SecretData | None]] = {}

    async def get(self, ref: SecretKeyRef, *, host: str | None) -> str:
        secret = await self._secret(ref.name, host)
        if ref.key not in secret.data:
            raise SecretMissing(f"Secret {ref.name} has no key {ref.key}: add it")
        return _text(secret.data[ref.key], name=ref.name, key=ref.key)

    async def get_all(self, ref: SecretRef, *, host: str | None) -> dict[str, str]:
        secret = await self._secret(ref.name, host)
        return {key: _text(value, name=ref.name, key=key) for key, value in secret.data.items()}

    def invalidate(self) -> None:
        self._cache = {name: (float("-inf"), secret) for name, (_, secret) in self._cache.items()}

    async def _secret(self, name: str, host: str | None) -> SecretData:
        secret = await self._cached(name)
        if secret is None:
            raise SecretMissing(
                f"Secret {name} does not exist in the namespace of the operator: create it"
            )
        if secret.labels.get(SINK_SECRET_LABEL) != "true":
            raise SecretNotAllowed(
                f'Secret {name} is not labeled for sinks: add the label {SINK_SECRET_LABEL}: "true"'
            )
        allowed = secret.annotations.get(ALLOWED_HOSTS_ANNOTATION)
        if allowed is not None and not _is_allowed(host, allowed):
            raise SecretNotAllowed(
                f"Secret {name} must not be sent to {host or 'this sink'}:"
                f" its annotation {ALLOWED_HOSTS_ANNOTATION} does not list that host"
            )
        return secret

    async def _cached(self, name: str) -> SecretData | None:
        known = self._cache.get(name)
        if known and self._now() - known[0] < self._max_age:
            return known[1]
        began = self._now()
        try:
            secret = await self._read(name)
        except SinkError:
            raise
        except Exception as error:
            if known and known[1] is not None:
                return known[1]
            raise Unavailable(f"failed to read Secret {name}: {error}") from error
        self._cache[name] = (began, secret)
        return secret


class EnvironmentSecrets:
    """Environment variables as Secret `environment`, only for the sink of the built-in policy.

    Never pass it to a sink of a policy or an inventory: users write these, and could read the
    whole environment of the operator.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    async def get(self, ref: SecretKeyRef, *, host: str | None) -> str:
        _expect_environment(ref.name)
        if ref.key not in self._environ:
            raise SecretMissing(f"environment variable {ref.key} is not set")
        return self._environ[ref.key]

    async def get_all(self, ref: SecretRef, *, host: str | None) -> dict[str, str]:
        _expect_environment(ref.name)
        return {key: value for key, value in self._environ.items() if key.startswith(_AWS_PREFIX)}

    def invalidate(self) -> None:
        """Do nothing: the environment of a process does not change."""


def _expect_environment(name: str) -> None:
    if name != ENVIRONMENT_SECRET:
        raise SecretMissing(f"the built-in policy uses the environment, not Secret {name}")


def _text(value: bytes, *, name: str, key: str) -> str:
    try:
        # `--from-file` and editors append line breaks, which no credential has.
        return value.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SecretMissing(f"key {key} of Secret {name} is not UTF-8 text: replace it") from (
            error
        )


def _is_allowed(host: str | None, allowed: str) -> bool:
    if host is None:
        return False
    wanted = {name.strip().strip("[]").rstrip(".").lower() for name in allowed.split(",")}
    return host.strip("[]").rstrip(".").lower() in wanted - {""}
