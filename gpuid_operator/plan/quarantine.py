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

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gpuid_operator.api.inventory import GPU
from gpuid_operator.api.meta import MAX_QUARANTINES_PER_GPU
from gpuid_operator.api.quarantine import Quarantine, QuarantineAction

PartKey = tuple[str, str]
"""(`uuid`, `serial` or `chassis`; the identifier)."""

_UUID: Final = "uuid"
_SERIAL: Final = "serial"
_CHASSIS: Final = "chassis"


@dataclass(frozen=True, slots=True)
class QuarantineRule:
    """A quarantine as far as decisions about GPUs depend on it."""

    name: str
    reason: str
    parts: frozenset[PartKey]
    until: datetime | None
    taint: bool
    """Whether it asks for the taint."""

    @classmethod
    def of(cls, quarantine: Quarantine) -> QuarantineRule:
        spec = quarantine.spec
        return cls(
            name=quarantine.name,
            reason=spec.reason,
            parts=frozenset(
                (kind, value)
                for part in spec.parts
                for kind, value in part_keys(part.uuid, part.serial, part.chassis)
            ),
            until=_aware(spec.until),
            taint=spec.action is QuarantineAction.TAINT,
        )

    def in_force(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def _aware(time: datetime | None) -> datetime | None:
    """The time with a time zone: UTC, where it has none."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


Rules = frozenset[QuarantineRule]
NO_RULES: Final[Rules] = frozenset()


def part_keys(uuid: str | None, serial: str | None, chassis: str | None) -> Iterator[PartKey]:
    """The keys by which a quarantine may list a GPU with these identifiers."""
    for kind, value in ((_UUID, uuid), (_SERIAL, serial), (_CHASSIS, chassis)):
        if value:
            yield kind, value


class QuarantineIndex:
    """All quarantines, by the parts that they list. Never changes."""

    def __init__(
        self, rules: Iterable[QuarantineRule] = (), *, unreadable: Iterable[str] = ()
    ) -> None:
        """`unreadable` names the quarantines that cannot be parsed."""
        self.rules = {rule.name: rule for rule in rules}
        self.unreadable = frozenset(unreadable)
        by_part: defaultdict[PartKey, set[QuarantineRule]] = defaultdict(set)
        for rule in self.rules.values():
            for part in rule.parts:
                by_part[part].add(rule)
        self._by_part: dict[PartKey, Rules] = {
            part: frozenset(found) for part, found in by_part.items()
        }

    def __bool__(self) -> bool:
        """Whether there is any quarantine."""
        return bool(self.rules or self.unreadable)

    def find(self, keys: Iterable[PartKey], *, now: datetime) -> Rules:
        """The quarantines in force that list one of these parts."""
        by_part = self._by_part
        found = [by_part[key] for key in keys if key in by_part]
        if not found:
            return NO_RULES
        return frozenset(rule for rule in NO_RULES.union(*found) if rule.in_force(now))

    def find_gpu(self, gpu: GPU, *, now: datetime) -> Rules:
        """The quarantines in force that list a GPU, its board or its chassis."""
        return self.find(part_keys(gpu.uuid, gpu.serial, gpu.chassis_serial), now=now)

    def names(self, gpu: GPU, *, now: datetime) -> list[str]:
        """The names that a present GPU has, by the table above, sorted."""
        matching = {rule.name for rule in self.find_gpu(gpu, now=now)}
        kept = [
            name for name in gpu.quarantines or () if name in matching or name in self.unreadable
        ]
        added = sorted(matching.difference(kept))[: MAX_QUARANTINES_PER_GPU - len(kept)]
        return sorted([*kept, *added])

    def next_end(self, now: datetime) -> datetime | None:
        """When the next quarantine ends by its `until`; None if none will."""
        ends = (rule.until for rule in self.rules.values() if rule.until is not None)
        return min((end for end in ends if end > now), default=None)
