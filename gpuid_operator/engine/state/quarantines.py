"""Quarantines: which parts they list, as far as that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from gpuid_operator.api.quarantine import Quarantine, QuarantineStatus
from gpuid_operator.engine.state.object_versions import ObjectVersions
from gpuid_operator.plan.quarantine import QuarantineIndex, QuarantineRule
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class QuarantineCache:
    """All quarantines, also those that cannot be parsed. Its methods do no I/O."""

    def __init__(self) -> None:
        self._quarantines: dict[str, Quarantine] = {}
        self._versions: ObjectVersions[str] = ObjectVersions()
        self._listed = False
        self._index: QuarantineIndex | None = None
        self._clock: Callable[[], datetime] | None = None

    def __iter__(self) -> Iterator[Quarantine]:
        """All quarantines, by name."""
        return iter([self._quarantines[name] for name in sorted(self._quarantines)])

    def __len__(self) -> int:
        return len(self._quarantines)

    @property
    def index(self) -> QuarantineIndex | None:
        """The quarantines for decisions; None until all were listed."""
        if self._index is None and self._listed:
            self._index = QuarantineIndex(
                (QuarantineRule.of(quarantine) for quarantine in self if not quarantine.fault),
                unreadable=(quarantine.name for quarantine in self if quarantine.fault),
            )
        return self._index

    @property
    def time(self) -> datetime | None:
        """The time by which quarantines end; None for that of each change."""
        return None if self._clock is None else self._clock()

    def end_by(self, clock: Callable[[], datetime]) -> None:
        """Let quarantines end by this clock from now on."""
        self._clock = clock

    @contextmanager
    def listing(self) -> Iterator[dict[str, str]]:
        """List all quarantines in this context. Yields the versions that are known before, for
        `take_all`."""
        with self._versions.listing():
            yield {name: self._versions[name] for name in self._quarantines}

    def take_all(self, bodies: Sequence[Mapping[str, Any]], *, known: Mapping[str, str]) -> bool:
        """Store the quarantines of a complete list. `known` comes from `listing`. Returns whether
        any of them changed, or none was listed before."""
        changed = not self._listed
        self._listed = True
        for body in bodies:
            changed |= self.take(body, deleted=False)
        for name in known.keys() - {body["metadata"]["name"] for body in bodies}:
            if self._versions.remove_unlisted(name, known[name]):
                del self._quarantines[name]
                self._index = None
                changed = True
        return changed

    def take(self, body: Mapping[str, Any], *, deleted: bool) -> bool:
        """Store the quarantine of a watch event. Returns whether its spec changed."""
        name, version = body["metadata"]["name"], body["metadata"]["resourceVersion"]
        if not self._versions.put(name, version, exists=not deleted):
            return False
        before = self._quarantines.pop(name, None)
        if deleted:
            self._index = None
            return before is not None
        now = self._quarantines[name] = _parse(body)
        if before and (before.uid, before.generation) == (now.uid, now.generation):
            return False
        self._index = None
        return True

    def forget_all(self) -> bool:
        """Nothing is known any more: the kind is not served, or may not be listed. Returns whether
        anything was known before."""
        was = self._listed
        for name in self._quarantines:
            self._versions.forget(name)
        self._quarantines.clear()
        self._listed, self._index = False, None
        return was

    def put_status(self, quarantine: Quarantine, status: QuarantineStatus, *, version: str) -> None:
        """Store the status that was just written to this version of a quarantine, unless the
        quarantine changed or was deleted meanwhile."""
        name = quarantine.name
        if self._quarantines.get(name) is quarantine:
            self._versions.put(name, version, exists=True)
            written = {"status": status, "resource_version": version}
            self._quarantines[name] = quarantine.model_copy(update=written)


def _parse(body: Mapping[str, Any]) -> Quarantine:
    """Read the API object of a quarantine. Logs an error if it cannot be parsed.

    The CRD rejects invalid specs. Such a quarantine was written under the CRD of another version of
    the operator.
    """
    quarantine = Quarantine.from_object(dict(body))
    if quarantine.fault:
        _log.error(
            "failed to parse GPUQuarantine; GPUs keep what it marked",
            quarantine=quarantine.name,
            error=quarantine.fault,
        )
    return quarantine
