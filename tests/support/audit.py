"""The audit log of a local cluster's API server, which has a line for each answered request."""

from __future__ import annotations

import json
from typing import Any

from gpuid_operator.localcluster import LocalCluster


def events(cluster: LocalCluster, *, since: int = 0) -> list[dict[str, Any]]:
    """The events after the first `since`. The server writes the event of a request shortly after
    the request took effect; a line that it has not written whole yet is left out."""
    lines = cluster.audit_log.read_bytes().rpartition(b"\n")[0].splitlines()
    return [json.loads(line) for line in lines[since:]]


def user_of(event: dict[str, Any]) -> str | None:
    """The name of the user; None if the request had no valid credentials."""
    name: str | None = event["user"].get("username")
    return name
