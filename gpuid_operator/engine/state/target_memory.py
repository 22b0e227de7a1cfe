"""What reads of this process showed about the targets of each node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta


class TargetMemory:
    """By node: the target that works, and the containers that have no nvidia-smi. Its methods do no
    I/O. A restart loses it; then the status says what works."""

    def __init__(self, *, grace: timedelta) -> None:
        self._grace = grace.total_seconds()
        self._kept: dict[str, int] = {}
        self._tried: set[str] = set()
        self._changed: dict[str, float] = {}
        # By node: why, by number of the target and containerID.
        self._lacking: dict[str, dict[tuple[int, str], str]] = {}

    def kept(self, node: str) -> int | None:
        """The number of the target of the last good read; None where it is not known."""
        return self._kept.get(node)

    def keep(self, node: str, target: int) -> None:
        """The last good read was in this target."""
        if self._kept.get(node) != target:
            self._kept[node] = target
            self._changed.pop(node, None)

    def was_tried(self, node: str) -> bool:
        """Whether this process has begun to read the node."""
        return node in self._tried

    def read_begins(self, node: str) -> None:
        """A read of this node begins. From now on the same targets count for it as for reads that
        are due, so that a failure finds its back-off."""
        self._tried.add(node)

    def waits(self, node: str) -> bool:
        """Whether the pods of the target that the node was read in have just changed."""
        changed = self._changed.get(node)
        return changed is not None and asyncio.get_running_loop().time() - changed < self._grace

    def lacks_program(self, node: str, target: int, container_id: str) -> bool:
        """Whether a read showed that a container has no nvidia-smi for its target."""
        return (target, container_id) in self._lacking.get(node, ())

    def note_missing(self, node: str, target: int, container_id: str, why: str) -> None:
        """A read showed that a container has no nvidia-smi; `why` is one line for people."""
        self._lacking.setdefault(node, {})[target, container_id] = why

    def missing(self, node: str) -> list[str]:
        """Why each container of the node that has no nvidia-smi is one, in the order of targets."""
        return [why for _, why in sorted(self._lacking.get(node, {}).items())]

    def retry(self, node: str) -> None:
        """Try all targets of the node again."""
        self._lacking.pop(node, None)

    def pods_changed(
        self, node: str, target: int, containers: Iterable[tuple[int, str]], *, now: float
    ) -> None:
        """The pods of a target on a node changed; `containers` are all that run there now."""
        if self._kept.get(node) == target:
            self._changed[node] = now
        if node in self._lacking:
            running = set(containers)
            left = {key: why for key, why in self._lacking[node].items() if key in running}
            self._lacking[node] = left
            if not left:
                del self._lacking[node]

    def forget(self, node: str) -> None:
        """Drop what is known of a node that is gone."""
        for known in (self._kept, self._changed, self._lacking):
            known.pop(node, None)
        self._tried.discard(node)
