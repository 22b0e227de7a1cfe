"""What a service account did, by the API server's audit log, beside what it may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gpuid_operator.localcluster import LocalCluster
from tests.support import audit

Grant = tuple[str, str, str, str, str]
"""Namespace (`*` for the cluster), group, resource, verb, name (`*` for any)."""

GPUID: Final = "gpuid.github.com"


@dataclass
class Calls:
    """The calls of one service account."""

    denied: list[str] = field(default_factory=list)
    """Those that the server refused for want of a right, in words."""
    used: set[Grant] = field(default_factory=set)

    def unused(self, granted: set[Grant]) -> set[Grant]:
        """Grants that no call needed."""
        return {grant for grant in granted if not any(_covers(grant, call) for call in self.used)}


def calls_of(cluster: LocalCluster, account: str, *, since: int) -> Calls:
    """What the service account `account` of the namespace gpuid did after the first `since` events
    of the audit log."""
    calls = Calls()
    for event in audit.events(cluster, since=since):
        if audit.user_of(event) != f"system:serviceaccount:gpuid:{account}":
            continue
        decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
        if decision != "allow" or event.get("responseStatus", {}).get("code") in (401, 403):
            calls.denied.append(f"{event['verb']} {event['requestURI']}")
        if reference := event.get("objectRef"):
            resource = reference["resource"]
            if subresource := reference.get("subresource"):
                resource = f"{resource}/{subresource}"
            # A Namespace counts as its own namespace here, and is an object of the cluster.
            namespace = "*" if resource == "namespaces" else reference.get("namespace", "*")
            calls.used.add(
                (
                    namespace,
                    reference.get("apiGroup", ""),
                    resource,
                    event["verb"],
                    reference.get("name", "*"),
                )
            )
    return calls


def _covers(grant: Grant, call: Grant) -> bool:
    return grant[:4] == call[:4] and grant[4] in ("*", call[4])
