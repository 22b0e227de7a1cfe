"""GPUs that several present inventories list: which node to read again, and what is certain.

`plan/duplicates.py` has the rules. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gpuid_operator.api.inventory import ConditionStatus
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.plan.duplicates import NAMED_NODES, RETRY, Duplicate, is_duplicate

LARGE: Final = 16
"""Number of nodes with one UUID beyond which a further node makes none of the others be read
again: such a UUID identifies nothing, and reads would grow with the square of the nodes."""

_EPOCH: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Claims:
    """The inventories that list one GPU; at least two."""

    newest: str
    """The inventory that was read last."""
    since: float = float("-inf")
    """When the last inventory joined the others."""
    nodes: dict[str, float] = field(default_factory=dict)
    """All of them, and since when they list the GPU."""
    certain: list[str] = field(default_factory=list)
    """Those of which it is certain, sorted; it is a duplicate if there are two."""
    recheck: set[str] = field(default_factory=set)
    """Those to read again although it was certain of them: the GPU may have moved to another."""

    def is_certain(self, name: str) -> bool:
        at = bisect_left(self.certain, name)
        return self.certain[at : at + 1] == [name]

    def shown(self) -> list[str]:
        """The nodes that conditions name."""
        return self.certain[: NAMED_NODES + 2]


class DuplicateGPUs:
    """Follows the GPUs that several present inventories list. Its methods do no I/O."""

    def __init__(self, inventories: InventoryCache) -> None:
        self._inventories = inventories
        self._claims: dict[str, _Claims] = {}
        self._uuids: dict[str, set[str]] = {}
        # When the last complete read of each node by this process began.
        self._reads: dict[str, float] = {}
        # When a node was last read because of another one, by (node, other node).
        self._asked: dict[tuple[str, str], float] = {}
        self._enqueue: Callable[[Iterable[str]], None] = lambda names: None
        inventories.by_uuid.listener = self._listed

    def __len__(self) -> int:
        """Number of GPUs that are certainly in several inventories."""
        return sum(len(claims.certain) > 1 for claims in self._claims.values())

    def subscribe(self, enqueue: Callable[[Iterable[str]], None]) -> None:
        """Call `enqueue` with the nodes that something changed for."""
        self._enqueue = enqueue

    def of(self, name: str) -> tuple[Duplicate, ...] | None:
        """The duplicates among the GPUs of a node; None where they are not known yet."""
        uuids = self._uuids.get(name)
        if not uuids:
            return ()
        found = []
        for uuid in sorted(uuids):
            claims = self._claims[uuid]
            if len(claims.certain) > 1 and claims.is_certain(name):
                others = [other for other in claims.shown() if other != name]
                more = len(others) > NAMED_NODES
                found.append(Duplicate(uuid, tuple(others[:NAMED_NODES]), more))
        return tuple(found) or None

    def reread_in(self, name: str) -> float | None:
        """Seconds until the next read that shall show whether the node still has a GPU that another
        one lists; None if there is no need for one."""
        rivals = self._rivals(name)
        if not rivals:
            return None
        asked = [self._asked.get(pair) for pair in rivals]
        if None in asked:
            return 0.0
        now = asyncio.get_running_loop().time()
        return max(0.0, min(at for at in asked if at is not None) + RETRY - now)

    def read_begins(self, name: str) -> None:
        """A read of this node begins now."""
        rivals = self._rivals(name)
        if rivals:
            now = asyncio.get_running_loop().time()
            recent = {pair: at for pair, at in self._asked.items() if at > now - RETRY}
            self._asked = recent | dict.fromkeys(rivals, now)

    def read_done(self, name: str, *, began: float) -> None:
        """A read of this node was complete and is written: the inventory lists what it found."""
        self._reads[name] = began
        for uuid in self._uuids.get(name, ()):
            claims, before = self._claims[uuid], self._claims[uuid].shown()
            rival, claims.newest = claims.newest, name
            if rival == name:
                continue
            here, everywhere = claims.nodes[name], claims.since
            if is_duplicate(began, self._reads.get(rival), here=here, everywhere=everywhere):
                for node in (name, rival):
                    claims.recheck.discard(node)
                    if not claims.is_certain(node):
                        insort(claims.certain, node)
            elif not claims.is_certain(name):
                claims.recheck.add(rival)
            self._changed(claims, before, rival, name)

    def forget(self, name: str) -> None:
        """Drop what is remembered of the reads of a node that is gone."""
        self._reads.pop(name, None)

    def _rivals(self, name: str) -> set[tuple[str, str]]:
        """(node, other node) for each other node because of which the node has to be read again."""
        return {
            (name, claims.newest)
            for claims in map(self._claims.__getitem__, self._uuids.get(name, ()))
            if claims.newest != name and (name in claims.recheck or not claims.is_certain(name))
        }

    def _listed(self, uuid: str, name: str, *, listed: bool) -> None:
        """See SharedListener."""
        claims = self._claims.get(uuid)
        if not listed:
            self._leave(uuid, name)
        elif claims is not None:
            self._join(uuid, claims, name)
        else:
            claims = self._claims[uuid] = _Claims(newest=name)
            for node in self._inventories.by_uuid.names(uuid) - {name}:
                self._join(uuid, claims, node)
                claims.nodes[node] = float("-inf")
            self._join(uuid, claims, name)

    def _join(self, uuid: str, claims: _Claims, name: str) -> None:
        before = claims.shown()
        now = claims.nodes[name] = asyncio.get_running_loop().time()
        self._uuids.setdefault(name, set()).add(uuid)
        claims.newest = max(claims.newest, name, key=self._age)
        if self._was_certain(uuid, name):
            insort(claims.certain, name)
        elif len(claims.nodes) <= LARGE:
            claims.since = now
            claims.recheck.update(claims.certain)
        self._changed(claims, before, name)

    def _was_certain(self, uuid: str, name: str) -> bool:
        """Whether an earlier process was certain of this GPU, and said so."""
        cached = self._inventories.get(name)
        said = cached.unique if cached else None
        return said is not None and said.status is ConditionStatus.FALSE and uuid in said.message

    def _leave(self, uuid: str, name: str) -> None:
        claims = self._claims[uuid]
        before = claims.shown()
        del claims.nodes[name]
        claims.recheck.discard(name)
        self._drop(uuid, name)
        if claims.is_certain(name):
            claims.certain.remove(name)
        if len(claims.nodes) == 1:
            (last,) = claims.nodes
            self._drop(uuid, last)
            del self._claims[uuid]
        elif claims.newest == name:
            claims.newest = max(claims.nodes, key=self._age)
        self._changed(claims, before, name)

    def _drop(self, uuid: str, name: str) -> None:
        self._uuids[name].discard(uuid)
        if not self._uuids[name]:
            del self._uuids[name]

    def _age(self, name: str) -> tuple[float, datetime, str]:
        """Sorts the node that was read last to the end."""
        cached = self._inventories.get(name)
        last = cached.last_read if cached else None
        return self._reads.get(name, -1.0), last or _EPOCH, name

    def _changed(self, claims: _Claims, before: list[str], *names: str) -> None:
        """Reconcile the nodes that a change of these claims concerns."""
        if len(claims.nodes) <= LARGE or claims.shown() != before:
            names = (*claims.nodes, *names)
        self._enqueue(dict.fromkeys(names))
