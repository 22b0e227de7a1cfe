"""Which GPUs are in quarantine.

An identifier of a quarantine matches the value that the status of a node shows, character by
character.

    the quarantine                                 | a present GPU
    -----------------------------------------------|------------------------------------------
    lists its UUID, serial or chassis, in force    | has its name, unless it has 8 already
    is not in force: deleted, or `until` is past   | loses its name
    does not list the GPU any more                 | loses its name
    cannot be parsed (a later version wrote it)    | keeps its name, and gets none
    not known yet, for none was listed so far      | keeps its name, and gets none

The names that a GPU has stay before others take a free place, so that no quarantine pushes out
another one that is still in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Self

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.meta import MAX_QUARANTINES_PER_GPU
from gpuid_operator.api.quarantine import Part, Quarantine, QuarantineAction


class Identifiers(NamedTuple):
    """What a quarantine can list a GPU by."""

    uuid: str | None
    serial: str | None
    chassis: str | None

    @classmethod
    def of(cls, gpu: GPU) -> Self:
        return cls(gpu.uuid, gpu.serial, gpu.chassis_serial)


@dataclass(frozen=True, slots=True)
class QuarantineRule:
    """A quarantine as far as decisions about GPUs depend on it."""

    name: str
    reason: str
    parts: frozenset[Identifiers]
    until: datetime | None = None
    taint: bool = False
    """Whether it asks for the taint."""

    @classmethod
    def of(cls, quarantine: Quarantine) -> QuarantineRule:
        spec = quarantine.spec
        return cls(
            name=quarantine.name,
            reason=spec.reason,
            parts=frozenset(map(_identifiers, spec.parts)),
            until=spec.until,
            taint=spec.action is QuarantineAction.TAINT,
        )

    def is_active(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def _identifiers(part: Part) -> Identifiers:
    return Identifiers(part.uuid, part.serial, part.chassis)


Rules = frozenset[QuarantineRule]
NO_RULES: Final[Rules] = frozenset()

_ByIdentifier = dict[str | None, tuple[QuarantineRule, ...]]


class QuarantineIndex:
    """All quarantines, by the parts that they list. Never changes."""

    def __init__(
        self, rules: Iterable[QuarantineRule] = (), *, unreadable: Iterable[str] = ()
    ) -> None:
        """`unreadable` names the quarantines that cannot be parsed."""
        self.rules: Mapping[str, QuarantineRule] = {rule.name: rule for rule in rules}
        self.unreadable = frozenset(unreadable)
        # One dictionary per kind of identifier: most GPUs are in none, and a fleet has 40,000.
        self._uuids: _ByIdentifier = {}
        self._serials: _ByIdentifier = {}
        self._chassis: _ByIdentifier = {}
        kinds = (self._uuids, self._serials, self._chassis)
        for rule in self.rules.values():
            for part in rule.parts:
                for known, value in zip(kinds, part, strict=True):
                    if value:
                        known[value] = (*known.get(value, ()), rule)

    def find_all(
        self, gpus: Iterable[Identifiers], *, now: datetime
    ) -> Iterator[tuple[Identifiers, Rules]]:
        """Those of the GPUs that a quarantine in force lists, with these quarantines."""
        uuids, serials, all_chassis = self._uuids, self._serials, self._chassis
        for gpu in gpus:
            uuid, serial, chassis = gpu
            maybe = uuid in uuids or serial in serials or chassis in all_chassis
            if maybe and (found := self.find(gpu, now=now)):
                yield gpu, found

    def find(self, gpu: Identifiers, *, now: datetime) -> Rules:
        """The quarantines in force that list a GPU, its board or its chassis."""
        listed = (
            *self._uuids.get(gpu.uuid, ()),
            *self._serials.get(gpu.serial, ()),
            *self._chassis.get(gpu.chassis, ()),
        )
        return frozenset(rule for rule in listed if rule.is_active(now))

    def names(self, gpu: GPU, *, now: datetime) -> list[str]:
        """The names that a present GPU has, by the table above, sorted."""
        matching = {rule.name for rule in self.find(Identifiers.of(gpu), now=now)}
        kept = [
            name for name in gpu.quarantines or () if name in matching or name in self.unreadable
        ]
        added = sorted(matching.difference(kept))[: MAX_QUARANTINES_PER_GPU - len(kept)]
        return sorted([*kept, *added])

    def next_end(self, now: datetime) -> datetime | None:
        """When the next quarantine ends by its `until`; None if none will."""
        ends = (rule.until for rule in self.rules.values() if rule.until is not None)
        return min((end for end in ends if end > now), default=None)
