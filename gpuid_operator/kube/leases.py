"""Leases (coordination.k8s.io/v1) for leader election.

The rate limit does not apply to them, and they have their own connections: a leader that waits
behind its own writes loses its lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from gpuid_operator.kube.client import KubeClient


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The content of a Lease."""

    holder: str
    """Identity of the leader; empty after the lease was released."""
    duration_seconds: int
    acquire_time: datetime | None
    renew_time: datetime | None
    transitions: int
    resource_version: str = ""
    """Empty for a Lease that does not exist yet."""

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Self:
        """Read an API object, in which most fields are optional."""
        spec = body.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_seconds=spec.get("leaseDurationSeconds") or 0,
            acquire_time=_parse(spec.get("acquireTime")),
            renew_time=_parse(spec.get("renewTime")),
            transitions=spec.get("leaseTransitions") or 0,
            resource_version=body["metadata"]["resourceVersion"],
        )

    def to_object(self, *, namespace: str, name: str) -> dict[str, Any]:
        """The API object; as in client-go, a released lease has an empty holder."""
        meta = {"namespace": namespace, "name": name}
        if self.resource_version:
            meta["resourceVersion"] = self.resource_version
        spec: dict[str, Any] = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.duration_seconds,
            "leaseTransitions": self.transitions,
        }
        if self.acquire_time:
            spec["acquireTime"] = format_micro_time(self.acquire_time)
        if self.renew_time:
            spec["renewTime"] = format_micro_time(self.renew_time)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": spec,
        }


def format_micro_time(value: datetime) -> str:
    """Format a metav1.MicroTime: RFC 3339 in UTC with the required six digits."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def get_lease(
    client: KubeClient, *, namespace: str, name: str, timeout: float
) -> LeaseRecord:
    """Read a Lease, within `timeout` seconds. Raises NotFound, and what `KubeClient.request`
    raises."""
    body = await client.request("GET", f"{_path(namespace)}/{name}", timeout=timeout, limited=False)
    return LeaseRecord.from_object(body)


async def create_lease(
    client: KubeClient, record: LeaseRecord, *, namespace: str, name: str, timeout: float
) -> LeaseRecord:
    """Create a Lease; return it with its version.

    Raises AlreadyExists if another process was faster, and what `KubeClient.request` raises.
    """
    body = await client.request(
        "POST",
        _path(namespace),
        body=record.to_object(namespace=namespace, name=name),
        timeout=timeout,
        limited=False,
    )
    return LeaseRecord.from_object(body)


async def update_lease(
    client: KubeClient, record: LeaseRecord, *, namespace: str, name: str, timeout: float
) -> LeaseRecord:
    """Replace the version of the Lease that `record` was read from.

    Raises Conflict if another process was faster, NotFound, and what `KubeClient.request` raises.
    """
    body = await client.request(
        "PUT",
        f"{_path(namespace)}/{name}",
        body=record.to_object(namespace=namespace, name=name),
        timeout=timeout,
        limited=False,
    )
    return LeaseRecord.from_object(body)


def _path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def _parse(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
