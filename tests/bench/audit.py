"""Requests of one user, counted in the audit log of the API server.

The log has all requests of the service accounts in the namespace `gpuid`, under which the programs
run, so the counts need no help from the program that is measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

READS: Final = frozenset({"get", "list", "watch"})


class AuditLog:
    """Counts from the moment of its creation, or of the last `restart`; reads each line once."""

    def __init__(self, path: Path, *, user: str) -> None:
        self._path = path
        self._user = user
        self._position = 0
        self._seen: dict[str, str] = {}
        self.restart()

    def restart(self) -> None:
        """Forget what was logged so far."""
        self._position = self._path.stat().st_size if self._path.exists() else 0
        self._seen.clear()

    def requests(self) -> Counter[str]:
        """How many requests there were, by `verb resource/subresource`."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._position += len(whole) + 1
            self._seen |= requests_in(whole.split(b"\n"), user=self._user)
        return Counter(self._seen.values())


def requests_in(lines: Iterable[bytes], *, user: str) -> dict[str, str]:
    """Requests of a user as `verb resource/subresource`, by their ids; each page of a list is one.

    A watch and an exec have two lines, at their beginning and at their end.
    """
    mark = user.encode()
    seen: dict[str, str] = {}
    for line in lines:
        if mark not in line:
            continue
        event = json.loads(line)
        if event["user"]["username"] == user:
            seen[event["auditID"]] = _kind(event)
    return seen


def is_write(request: str) -> bool:
    """Whether a request changes an object; an exec does not."""
    verb, _, resource = request.partition(" ")
    return verb not in READS and resource != "pods/exec"


def is_exec(request: str) -> bool:
    return request.endswith(" pods/exec")


def of_resource(requests: Counter[str], *names: str) -> int:
    """The requests for some resources, without their subresources."""
    return sum(count for one, count in requests.items() if one.partition(" ")[2] in names)


def _kind(event: dict[str, Any]) -> str:
    reference = event.get("objectRef") or {}
    resource = (
        "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
        or event["requestURI"].partition("?")[0]
    )
    return f"{event['verb']} {resource}"
