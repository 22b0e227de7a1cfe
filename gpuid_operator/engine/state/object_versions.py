"""The order of the states of an object, which events and lists do not bring in order."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from gpuid_operator.engine.state.resource_version import newer

K = TypeVar("K", bound=Hashable)


class ObjectVersions(Generic[K]):
    """The newest resourceVersion of each object, by a key of the caller. Its methods do no I/O.

    A page of a list shows the objects as they were when the list began. By the time it arrives,
    events may have brought later states and deletions.
    """

    def __init__(self) -> None:
        self._known: dict[K, str] = {}
        # Only a list that began before a deletion can bring the object back, so deletions are
        # remembered while a list is under way.
        self._deleted: dict[K, str] = {}
        self._lists = 0

    def __getitem__(self, key: K) -> str:
        return self._known[key]

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

    def put(self, key: K, version: str, *, exists: bool) -> bool:
        """Store the version of a state. Returns False, and stores nothing, where a later state is
        known."""
        known, deleted = self._known.get(key), self._deleted.get(key)
        if known is not None and version != known and not newer(version, than=known):
            return False
        if deleted is not None and not newer(version, than=deleted):
            return False
        if exists:
            self._known[key] = version
            self._deleted.pop(key, None)
        else:
            self._remove(key, version)
        return True

    def remove_unlisted(self, key: K, version: str) -> bool:
        """Remove an object that is missing in a complete list. `version` is the one that was known
        when the list began. Returns False, and keeps the object, where a later state is known."""
        if self._known.get(key) != version:
            return False
        self._remove(key, version)
        return True

    def forget(self, key: K) -> None:
        """Drop what is known of an object that nobody asks for any more."""
        self._known.pop(key, None)

    def _remove(self, key: K, version: str) -> None:
        self._known.pop(key, None)
        if self._lists:
            self._deleted[key] = version
