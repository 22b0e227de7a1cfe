"""The order of the states of a pod, which events and lists do not bring in order."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from gpuid_operator.engine.state.resource_version import newer

K = TypeVar("K", bound=Hashable)


class PodVersions(Generic[K]):
    """The newest resourceVersion of each pod, by a key of the caller. Its methods do no I/O.

    A page of a list shows the pods as they were when the list began. By the time it arrives, events
    may have brought later states and deletions.
    """

    def __init__(self) -> None:
        self._known: dict[K, str] = {}
        # Only a list that began before a deletion can bring the pod back, so deletions are
        # remembered while a list is under way.
        self._deleted: dict[K, str] = {}
        self._lists = 0

    def __getitem__(self, pod: K) -> str:
        return self._known[pod]

    @contextmanager
    def listing(self) -> Iterator[None]:
        """Remember deletions until the list that runs in this context ends."""
        self._lists += 1
        try:
            yield
        finally:
            self._lists -= 1
            if not self._lists:
                self._deleted.clear()

    def put(self, pod: K, version: str, *, exists: bool) -> bool:
        """Store the version of a state. Returns False, and stores nothing, where a later state is
        known."""
        known, deleted = self._known.get(pod), self._deleted.get(pod)
        if known is not None and version != known and not newer(version, than=known):
            return False
        if deleted is not None and not newer(version, than=deleted):
            return False
        if exists:
            self._known[pod] = version
            self._deleted.pop(pod, None)
        else:
            self._remove(pod, version)
        return True

    def remove_unlisted(self, pod: K, version: str) -> bool:
        """Remove a pod that is missing in a complete list. `version` is the one that was known when
        the list began. Returns False, and keeps the pod, where a later state is known."""
        if self._known.get(pod) != version:
            return False
        self._remove(pod, version)
        return True

    def forget(self, pod: K) -> None:
        """Drop what is known of a pod that nobody asks for any more."""
        self._known.pop(pod, None)

    def _remove(self, pod: K, version: str) -> None:
        self._known.pop(pod, None)
        if self._lists:
            self._deleted[pod] = version
