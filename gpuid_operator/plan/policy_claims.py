"""How many nodes each policy applies to, and which policies compete for the same nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyClaims:
    """The claims of all policies on all nodes, by name of the policy."""

    nodes: Mapping[str, int]
    """Number of nodes that the policy applies to."""
    rivals: Mapping[str, frozenset[str]]
    """Names of the policies of the same priority that match one of its nodes, too."""


def count_claims(matching: Iterable[Sequence[str]]) -> PolicyClaims:
    """Count claims, given for each node the names of its matching policies by precedence.

    The first policy of a node applies to it; the others are its rivals there.
    """
    nodes: Counter[str] = Counter()
    rivals: dict[str, set[str]] = defaultdict(set)
    for names in matching:
        nodes.update(names[:1])
        for name in names:
            rivals[name] |= set(names) - {name}
    return PolicyClaims(nodes, {name: frozenset(others) for name, others in rivals.items()})
