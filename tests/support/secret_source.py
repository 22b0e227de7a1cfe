"""Secrets of sinks as tests give them."""

from __future__ import annotations

from gpuid_operator.api.sinks import SecretKeyRef, SecretRef
from gpuid_operator.sinks.base import SecretMissing


class Secrets:
    """A source whose values a test can change; it counts the requests to read again."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.hosts: set[str | None] = set()
        self.invalidated = 0

    async def get(self, ref: SecretKeyRef, *, host: str | None) -> str:
        self.hosts.add(host)
        if ref.key not in self.values:
            raise SecretMissing(f"Secret {ref.name} has no key {ref.key}: add it")
        return self.values[ref.key]

    async def get_all(self, ref: SecretRef, *, host: str | None) -> dict[str, str]:
        self.hosts.add(host)
        return dict(self.values)

    def invalidate(self) -> None:
        self.invalidated += 1
