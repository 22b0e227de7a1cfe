"""Records which Secrets a sink was given, so that a refusal ends when one of them changes."""

from __future__ import annotations

from gpuid_operator.api.sinks import SecretKeyRef, SecretRef
from gpuid_operator.sinks.base import SinkError
from gpuid_operator.sinks.secrets import SecretSource


class RecordingSecretSource:
    """A SecretSource in front of another one."""

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self._given: dict[tuple[SecretKeyRef | SecretRef, str | None], object] = {}

    async def get(self, ref: SecretKeyRef, *, host: str | None) -> str:
        value = await self._record(ref, host)
        assert isinstance(value, str)  # noqa: S101 - what a key reference gives
        return value

    async def get_all(self, ref: SecretRef, *, host: str | None) -> dict[str, str]:
        value = await self._record(ref, host)
        assert isinstance(value, dict)  # noqa: S101 - what a whole reference gives
        return value

    def invalidate(self) -> None:
        self._source.invalidate()

    async def changed(self) -> bool:
        """Whether any Secret reads differently from when the sink last asked for it. That includes
        a Secret that could not be read then and can be read now."""
        self._source.invalidate()
        for (ref, host), before in list(self._given.items()):
            if await self._outcome(ref, host) != before:
                return True
        return False

    async def _record(self, ref: SecretKeyRef | SecretRef, host: str | None) -> object:
        try:
            value = await self._fetch(ref, host)
        except SinkError as error:
            self._given[ref, host] = error.message
            raise
        self._given[ref, host] = value
        return value

    async def _outcome(self, ref: SecretKeyRef | SecretRef, host: str | None) -> object:
        try:
            return await self._fetch(ref, host)
        except SinkError as error:
            return error.message

    async def _fetch(self, ref: SecretKeyRef | SecretRef, host: str | None) -> object:
        if isinstance(ref, SecretKeyRef):
            return await self._source.get(ref, host=host)
        return await self._source.get_all(ref, host=host)
