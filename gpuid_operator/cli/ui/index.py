"""The index behind the search: identifiers of GPUs, names of nodes and machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from gpuid_operator.plan.labels import PRESENT, label_text
from gpuid_operator.plan.placement import canonical

Place = tuple[str, str]
"""Context and node."""

MAX_HITS: Final = 20
MIN_WORD: Final = 2
"""Shorter words find too much to be of use."""


class Index:
    """Which nodes have or had which identifiers; kept in step with the records."""

    def __init__(self) -> None:
        self._places: dict[str, dict[Place, str]] = {}
        self._names: dict[Place, tuple[str, ...]] = {}
        self._hosts: dict[Place, tuple[str, str]] = {}

    def put(self, place: Place, machine: str | None, found: Iterable[tuple[str, str]]) -> None:
        """Replace what is known of a node."""
        self.drop(place)
        self._hosts[place] = (place[1], machine or "")
        presences: dict[str, str] = {}
        for name, presence in found:
            if presences.get(name) != PRESENT:
                presences[name] = presence
        self._names[place] = tuple(presences)
        for name, presence in presences.items():
            self._places.setdefault(name, {})[place] = presence

    def drop(self, place: Place) -> None:
        """Forget a node."""
        self._hosts.pop(place, None)
        for name in self._names.pop(place, ()):
            places = self._places[name]
            del places[place]
            if not places:
                del self._places[name]

    def search(self, words: str) -> list[dict[str, Any]]:
        """At most MAX_HITS hits: equal ones first, then beginnings, then anything within."""
        word = label_text(canonical(words)).lower()
        plain = words.strip().lower()
        if len(word) < MIN_WORD:
            return []
        hits = [
            (_rank(name.lower(), word), 0, name, {"kind": "gpu", "id": name, "places": places})
            for name, places in self._places.items()
            if word in name.lower()
        ]
        ranked: list[tuple[int, int, str, dict[str, Any]]] = hits
        for place, (node, machine) in self._hosts.items():
            if plain in node.lower() or plain in machine.lower():
                rank = min(_rank(node.lower(), plain), _rank(machine.lower(), plain))
                hit = {"kind": "node", "cluster": place[0], "node": node, "machine": machine}
                ranked.append((rank, 1, node, hit))
        ranked.sort(key=lambda hit: hit[:3])
        return [_shown(hit) for *_, hit in ranked[:MAX_HITS]]


def _rank(name: str, word: str) -> int:
    return 0 if name == word else 1 if name.startswith(word) else 2


def _shown(hit: dict[str, Any]) -> dict[str, Any]:
    if hit["kind"] != "gpu":
        return hit
    places = sorted(hit["places"].items(), key=lambda item: (item[1] != PRESENT, item[0]))
    return hit | {
        "places": [
            {"cluster": place[0], "node": place[1], "presence": presence}
            for place, presence in places[:MAX_HITS]
        ],
        "count": len(places),
    }
