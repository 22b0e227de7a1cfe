"""Which nodes get the taint of a quarantine, and which keep or lose it.

The rows are tried from top to bottom:

    the node                                              | its taint
    ------------------------------------------------------|----------------------------------------
    is suspended, or left alone                           | stays as it is
    any, and taints are not allowed                       | is removed
    has it, and the quarantine that it names asks for it  | stays
    has it, and only others ask for it                    | gets the first name of these
    has it, and none asks for it                          | is removed
    has none, some ask for it, and there is room          | is set, with the first name of these
    has none, some ask for it, and there is no room       | is not set: taints are halted
    has none, and none asks for it                        | is not set

There is room for a taint while fewer nodes than QUARANTINE_MAX_NODES have one. A quarantine asks
for the taint of a node that has one of its parts. Where the parts of a node are not known, or the
quarantine cannot be parsed, it asks for the taint that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_LIMIT: Final = re.compile(r"([0-9]{1,5})(%?)")
MAX_LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True)
class NodeLimit:
    """The largest number of nodes with the taint: a number, or a percentage of all nodes."""

    number: int
    percent: bool

    @classmethod
    def parse(cls, text: str) -> NodeLimit:
        """Read `5` or `10%`. Raises ValueError, whose text says what is allowed."""
        match = _LIMIT.fullmatch(text)
        if match is not None:
            number, percent = int(match[1]), bool(match[2])
            if 1 <= number <= (100 if percent else MAX_LIMIT):
                return cls(number, percent)
        raise ValueError(f"a whole number from 1 to {MAX_LIMIT}, or a percentage from 1% to 100%")

    def of(self, nodes: int) -> int:
        """The limit for a cluster with this number of nodes; at least 1."""
        return max(1, nodes * self.number // 100) if self.percent else self.number

    def __str__(self) -> str:
        return f"{self.number}%" if self.percent else str(self.number)


DEFAULT_MAX_NODES: Final = NodeLimit(10, percent=True)


@dataclass(frozen=True, slots=True)
class TaintedNode:
    """A node that has the taint, or for which a quarantine asks for it."""

    name: str
    value: str | None = None
    """The quarantine that the taint of the node names; None where it has none."""
    asking: tuple[str, ...] = ()
    """The quarantines that ask for the taint, sorted."""
    untouched: bool = False
    """Whether the node is suspended or left alone."""


@dataclass(frozen=True, slots=True)
class TaintPlan:
    """What happens to the taints of all nodes."""

    changes: Mapping[str, str | None] = field(default_factory=dict)
    """The new value of each taint to write, by node; None removes it. Removals come first."""
    halted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The names that ask for it, by node without room for a taint."""
    untouched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The names that ask for it, by node that is left as it is without a taint."""
    tainted: int = 0
    """Number of nodes that have the taint, or get it by these changes."""
    limit: int = 0
    """Number of nodes that may have it."""


def plan_taints(nodes: Iterable[TaintedNode], *, allowed: bool, limit: int) -> TaintPlan:
    """Decide by the table above; `allowed` is QUARANTINE_TAINTS."""
    known = sorted(nodes, key=lambda node: node.name)
    room = limit - sum(node.value is not None for node in known)
    removed: dict[str, str | None] = {}
    written: dict[str, str | None] = {}
    halted: dict[str, tuple[str, ...]] = {}
    untouched: dict[str, tuple[str, ...]] = {}
    for node in known:
        asking = node.asking if allowed else ()
        if node.untouched:
            if asking and node.value is None:
                untouched[node.name] = asking
        elif node.value is not None:
            if not asking:
                removed[node.name] = None
            elif node.value not in asking:
                written[node.name] = asking[0]
        elif asking and room > 0:
            written[node.name] = asking[0]
            room -= 1
        elif asking:
            halted[node.name] = asking
    return TaintPlan(removed | written, halted, untouched, limit - room, limit)
